"""Modules that ranks would not find on sys.path: pytest's importlib mode, loaders of plugins."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import run
from procession._rank.locations import locate
from procession.protocol import Launch
from scripts import block_cloudpickle, start

# text, because the relative import resolves only in the folders that the test makes
TEST = """
import pytest
from procession import run
from .helpers import Held

class Own:
    pass

def work(rank, value, held):
    assert type(value["key"][0]) is Own and type(held) is Held
    return value["key"][0]

@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it(method):
    value = {"key": [Own()]}
    assert type(run(work, (value, Held()), start_method=method, timeout=50)[0]) is Own
    run(print, (value,), start_method=method, timeout=50)  # only args need this module
"""


@pytest.mark.parametrize("package", [False, True])
def test_tests_run_in_pytests_importlib_mode(package: bool, tmp_path: Path) -> None:
    blocked = block_cloudpickle(tmp_path)
    for folder in ("one", "two"):  # equal names of modules, which other import modes refuse
        tests = tmp_path / "tests" / folder
        tests.mkdir(parents=True)
        (tests / "test_it.py").write_text(TEST)
        (tests / "helpers.py").write_text("class Held:\n    pass\n")
        if package:
            (tests / "__init__.py").write_text("")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    code = (
        f"import sys; sys.path.insert(0, {blocked!r})\n"
        "from pytest import main; sys.path.remove('')\n"
        "sys.exit(main(['-q', '--import-mode=importlib', '-p', 'no:cacheprovider', 'tests']))"
    )
    done = start(tmp_path, "-c", code)
    assert "6 passed" in done.stdout, done.stdout + done.stderr


def load_from(path: Path, name: str, *, register: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file as loaders of plugins do."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if register:
        monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_ranks_import_a_plugin_that_was_loaded_from_its_file(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.py"
    path.write_text("class Value: pass\ndef work(rank, value): return value\n")
    name = f"a_plugin_for_{start_method}"
    module = load_from(path, name, register=True, monkeypatch=monkeypatch)
    results = run(module.work, (module.Value(),), 2, start_method=start_method)
    assert [type(one) for one in results] == [module.Value] * 2
    assert type(run(ranks.give, (module.Value(),), start_method=start_method)[0][1]) is module.Value


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_module_that_is_not_in_sys_modules_is_explained(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.py"
    path.write_text("def work(rank): return rank\n")
    module = load_from(path, "unregistered", register=False, monkeypatch=monkeypatch)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(Exception, match="unregistered") as caught:
        run(module.work, start_method=start_method)
    message = "\n".join([str(caught.value), *ranks.notes_on(caught.value)])
    assert "its module 'unregistered' is not in sys.modules" in message


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_module_that_ranks_cannot_import_is_explained(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.py"
    path.write_text("class Value: pass\n")
    module = load_from(path, "deep_inside", register=True, monkeypatch=monkeypatch)
    with pytest.raises(Exception, match="No module named 'deep_inside'") as caught:
        run(ranks.give, ([module.Value()],), start_method=start_method)
    assert "ranks cannot import 'deep_inside', which fn or args need" in str(caught.value)
    assert "Add its folder to sys.path" in str(caught.value)


@pytest.mark.parametrize("start_method", ["spawn"])
def test_an_import_that_fails_in_a_users_module_gets_no_advice(
    start_method: str, tmp_path: Path
) -> None:
    (tmp_path / "inner.py").write_text(
        "import os\nif os.environ.get('IN_RANK'):\n    import no_such_module_at_all\n"
        "def work(rank): pass\n"
    )
    (tmp_path / "script.py").write_text(
        "from procession import run\nimport inner\nif __name__ == '__main__':\n"
        f"    run(inner.work, start_method={start_method!r}, env={{'IN_RANK': '1'}})\n"
    )
    done = start(tmp_path, "script.py")
    assert "No module named 'no_such_module_at_all'" in done.stderr
    assert "ranks cannot import" not in done.stderr


def test_importable_modules_are_not_located() -> None:
    import json

    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    launch: Any = Launch
    made = launch(
        fn=json.dumps,
        args=(numpy.zeros(1), Path(), {}),
        nprocs=1,
        start_method="spawn",
        daemon=False,
        environments=({},),
        options={},
        grace_period=None,
        timeout=None,
        allow_early_exit=False,
        keep_daemons=False,
        wants_results=False,
    )
    assert locate(made) == ({}, frozenset())


def test_ranks_import_nothing_more_for_modules_on_the_path() -> None:
    code = (
        "import json, sys\nfrom procession import run\nimport ranks\n"
        "modules, = run(ranks.see_modules)\n"
        "print([name for name in modules if name.startswith('procession.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    for name in ("locations", "main_module", "by_value", "advice", "unpickle"):
        assert f".{name}'" not in done.stdout, done.stdout
    assert "procession._rank.bootstrap" in done.stdout, done.stderr
