"""The registry finds the backend of a start method's name; plugins are folders of metadata."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import procession
from installing import (
    TORCH_KILLER,
    WritePlugin,
    listed,
    run_python,
    status_of,
    write_distribution,
    write_plugin,
)
from procession import (
    BackendInfo,
    BackendLoadError,
    BackendUnavailableError,
    IncompatibleBackendError,
    InvalidBackendError,
    UnknownBackendError,
    get_backend,
)
from procession._registry import loading
from procession._registry.builtin import BUILT_IN, import_built_in
from procession._registry.listing import check_backend
from procession._registry.loading import import_target
from scripts import run_program

# Built-in names


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_is_found(name: str) -> None:
    backend = get_backend(name)
    assert backend.name == name
    assert backend is get_backend(name)
    assert backend is get_backend(f"procession:{name}")


def test_built_ins_are_the_entry_points_of_procession() -> None:
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    section = text.partition('[project.entry-points."procession.start_methods"]\n')[2]
    declared = re.findall(r'^(\w+) = "(.+)"$', section.partition("\n[")[0], re.MULTILINE)
    assert dict(declared) == BUILT_IN
    for name, target in declared:
        assert import_built_in(name) is import_target(target)


def test_a_built_in_needs_no_metadata() -> None:
    code = (
        "import sys, procession\n"
        "for name in ('fork', 'spawn', 'forkserver', None): procession.get_backend(name)\n"
        "heavy = {'importlib_metadata', 'importlib.metadata', 'difflib', 'typing_extensions'}\n"
        "heavy.add('procession._registry.entry_points')\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = run_python("-c", code, PROCESSION_PLUGINS="none")
    assert ended.stdout == "[]\n", ended.stderr


@pytest.mark.parametrize("name", ["fork", "spawn", "forkserver"])
def test_a_launch_by_a_built_in_name_imports_no_registry_and_sees_a_later_registration(
    name: str,
) -> None:
    """Nor does it import the modules of dataclasses, which take longer than a rank."""
    done = run_program("replaces_built_in_method.py", name)
    assert done.stdout.splitlines() == ["set()", "the registered backend was called", "[0]"]


def test_a_third_party_cannot_take_a_built_in_name(plugin: WritePlugin) -> None:
    plugin("taker", "fork")
    assert type(get_backend("fork")).__module__ == "procession.backends.fork"
    assert type(get_backend("taker:fork")).__module__.startswith("test_a_third_party")
    (_, taken) = listed("fork")
    assert taken.status == "shadowed"
    assert taken.reason == "the name is reserved for procession"
    assert taken.hint == "use 'taker:fork'"
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("another")
    assert caught.value.because == ""


# None and the environment


def test_none_means_the_start_method_of_multiprocessing(site: Path) -> None:
    assert get_backend().name == multiprocessing.get_context(None).get_start_method()


def test_an_environment_variable_says_what_none_means(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSION_START_METHOD", "forkserver")
    assert get_backend(None).name == "forkserver"
    assert get_backend("spawn").name == "spawn"


@pytest.mark.parametrize("value", ["no-such-method", "", "Fork"])
def test_the_error_names_the_variable_that_caused_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PROCESSION_START_METHOD", value)
    with pytest.raises(UnknownBackendError, match=f"PROCESSION_START_METHOD='{value}'") as caught:
        get_backend()
    assert "PROCESSION_START_METHOD" in caught.value.because


def test_the_error_of_a_plugin_names_the_variable_that_asked_for_it(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(site, "gone", {"gone": "no_such_module_anywhere:Backend"})
    monkeypatch.setenv("PROCESSION_START_METHOD", "gone")
    with pytest.raises(BackendLoadError, match="PROCESSION_START_METHOD='gone' asked") as caught:
        get_backend()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# Plugins


def test_a_plugin_is_found_and_made_once(plugin: WritePlugin) -> None:
    module = plugin("some-plugin", "some")
    backend = get_backend("some")
    assert backend is get_backend("some")
    assert backend is get_backend("some-plugin:some")
    assert backend is get_backend("Some_Plugin:some")
    assert sys.modules[module].made == [backend]


def test_an_entry_point_names_an_instance_a_class_or_a_factory(site: Path) -> None:
    write_plugin(site, "kinds", "of-class", "registry_kinds")
    code = "\ninstance = Backend()\n\ndef make():\n    return Backend()\n"
    with site.joinpath("registry_kinds.py").open("a") as file:
        file.write(code)
    targets = {"of-instance": "registry_kinds:instance", "of-factory": "registry_kinds:make"}
    write_distribution(site, "more-kinds", targets)
    found = [get_backend(name) for name in ("of-class", "of-instance", "of-factory")]
    assert {type(backend).__name__ for backend in found} == {"Backend"}
    assert len(set(map(id, found))) == 3


def test_listing_imports_no_plugin(site: Path, plugin: WritePlugin) -> None:
    module = plugin("quiet", "quiet")
    (info,) = listed("quiet")
    assert info == BackendInfo(
        "quiet", "third-party", "quiet", "1.0", f"{module}:Backend", "not loaded"
    )
    assert module not in sys.modules
    get_backend("quiet")
    (info,) = listed("quiet")
    assert info.status == "ok"
    assert info.capabilities == procession.Capabilities()


def test_a_plugin_that_was_installed_later_is_found(site: Path, plugin: WritePlugin) -> None:
    with pytest.raises(UnknownBackendError):
        get_backend("late")
    plugin("late-plugin", "late")
    assert get_backend("late").name == "late"


def test_other_plugins_are_found_beside_a_malformed_distribution(
    site: Path, plugin: WritePlugin
) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)
    plugin("works", "works")
    with pytest.warns(RuntimeWarning, match="killer"):
        assert get_backend("works").name == "works"
    assert get_backend("fork")


def test_a_claim_of_a_malformed_distribution_is_broken(site: Path) -> None:
    text = "[procession.start_methods]\nhalf = half:Backend\n<<<<<<< HEAD\n"
    write_distribution(site, "half-merged", text=text)
    with (
        pytest.warns(RuntimeWarning, match="half-merged"),
        pytest.raises(UnknownBackendError, match=r"half-merged could not be read: .* line 3") as e,
    ):
        get_backend("half")
    assert [name for name, _ in e.value.broken] == ["half-merged"]
    assert status_of("half") == ["broken"]


# Broken plugins


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("raise RuntimeError('bad luck')", "RuntimeError: bad luck"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "AttributeError"),
        ("def Backend(): raise OSError('no engine')", "OSError: no engine"),
        ("def Backend(needed): pass", "TypeError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_why(
    site: Path, request: pytest.FixtureRequest, code: str, reason: str
) -> None:
    module = re.sub(r"\W", "_", request.node.name)
    write_distribution(site, "bad-plugin", {"bad": f"{module}:Backend"})
    site.joinpath(f"{module}.py").write_text(code)
    with pytest.raises(BackendLoadError) as caught:
        get_backend("bad")
    assert reason in caught.value.reason
    assert caught.value.origin == "bad-plugin 1.0"
    assert caught.value.__cause__ is not None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    info = check_backend("bad")
    assert info.status == "broken"
    assert reason in info.reason


@pytest.mark.parametrize("target", ["", ":", "no colon", "a:b:c", "..x:y", "[extra]"])
def test_the_error_of_an_invalid_target_names_its_distribution(site: Path, target: str) -> None:
    write_distribution(site, "bad-target", {"bad": target})
    with pytest.raises(BackendLoadError, match="bad-target"):
        get_backend("bad")


def test_the_error_lists_everything_that_a_backend_lacks(site: Path) -> None:
    write_distribution(site, "no-backend", {"bad": "json:JSONDecoder"})
    with pytest.raises(InvalidBackendError) as caught:
        get_backend("bad")
    assert len(caught.value.problems) == 5
    assert isinstance(caught.value, TypeError)


def test_a_backend_for_another_protocol_is_refused(
    site: Path, plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plugin("future", "future")
    path = site / f"{module}.py"
    path.write_text(path.read_text().replace("protocol_version = 1", "protocol_version = 99"))
    with pytest.raises(IncompatibleBackendError, match="version 99") as caught:
        get_backend("future")
    assert caught.value.supported == (1,)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Availability(False, 'no engine here', 'start one')", "no engine here (start one)"),
        ("1 / 0", "availability() raised ZeroDivisionError: division by zero"),
        ("None", "availability() returned None, not an Availability"),
    ],
)
def test_an_unavailable_backend_says_why(
    site: Path, plugin: WritePlugin, answer: str, reason: str
) -> None:
    module = plugin("away", "away")
    path = site / f"{module}.py"
    path.write_text(path.read_text().replace("Availability(True)", answer))
    with pytest.raises(BackendUnavailableError, match="'away' cannot be used here") as caught:
        get_backend("away")
    assert reason in str(caught.value)
    assert status_of("away") == ["unavailable"]


# Threads and processes


def test_threads_get_the_same_instance(site: Path, plugin: WritePlugin) -> None:
    module = plugin("slow", "slow")
    path = site / f"{module}.py"
    pause = "__import__('time').sleep(0.1)"
    text = path.read_text().replace("made.append", f"{pause}; made.append")
    path.write_text(text.replace("\nmade:", f"\n{pause}\nmade:"))
    barrier = threading.Barrier(8)

    def resolve() -> object:
        barrier.wait()
        return get_backend("slow")

    with ThreadPoolExecutor(8) as pool:
        found = {id(future.result()) for future in [pool.submit(resolve) for _ in range(8)]}
    assert len(found) == 1
    assert len(sys.modules[module].made) == 1


def test_a_plugin_can_use_the_registry_while_it_is_imported(
    site: Path, plugin: WritePlugin
) -> None:
    module = plugin("curious", "curious")
    path = site / f"{module}.py"
    code = "\nimport procession\nprocession.list_backends(); procession.get_backend('spawn')\n"
    path.write_text(path.read_text() + code)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(get_backend, ["curious"] * 4, timeout=20))
    assert len(set(map(id, found))) == 1


def test_a_factory_and_an_import_that_wait_for_each_other_do_not_hang(
    site: Path, plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "PATIENCE", 0.2)
    module = plugin("knot", "knot")
    path = site / f"{module}.py"
    path.write_text(path.read_text().replace("made.append(self)", f"import {module}_other"))
    other = site / f"{module}_other.py"
    code = "import time, procession\ntime.sleep(0.3)\nbackend = procession.get_backend('knot')\n"
    other.write_text(code)
    with ThreadPoolExecutor(2) as pool:
        imported = pool.submit(importlib.import_module, other.stem)
        time.sleep(0.1)
        assert pool.submit(get_backend, "knot").result(20) is imported.result(20).backend


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_the_registry_works_in_a_fork_made_while_a_plugin_is_created(
    site: Path, plugin: WritePlugin
) -> None:
    module = plugin("stuck", "stuck")
    path = site / f"{module}.py"
    path.write_text(
        path.read_text().replace("made.append(self)", "made.append(self); go.set(); end.wait(20)")
        + "\nimport threading\ngo, end = threading.Event(), threading.Event()\n"
    )
    thread = threading.Thread(target=get_backend, args=("stuck",))
    thread.start()
    while module not in sys.modules or not hasattr(sys.modules[module], "end"):
        thread.join(0.01)
    go = sys.modules[module].go
    assert go.wait(10)
    pid = os.fork()
    if pid == 0:
        sys.modules[module].__dict__["end"] = go
        os._exit(0 if get_backend("stuck").name == "stuck" else 1)
    sys.modules[module].end.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
