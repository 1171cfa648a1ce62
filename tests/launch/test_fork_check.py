"""Before a fork, the caller learns what it would break: initialised runtimes, open drivers, other threads.

Libraries are stand-ins in `sys.modules`, since CUDA cannot be initialised where these tests run: modules with
the attributes that torch 2.9, cupy 14.2, numba 0.68, numba-cuda 0.30, JAX 0.10 and torch_xla 2.9 have there.
JAX itself is in promises/test_jax.py; threads, and the kernel of a notebook, in test_foreign_threads.py.
"""

from __future__ import annotations

import builtins
import importlib.util
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import ranks
from procession import UnsafeForkError, UnsafeForkWarning, run, start_processes
from procession._launch.fork_check import check_fork, find_certain, find_likely
from scripts import run_program

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="this platform has no /proc")

StandIn = Callable[..., None]

DRIVER, OTHER_DRIVER = "/dev/nvidia-uvm", "/dev/kfd"
PROBED = (
    *("torch.cuda", "torch.xpu", "torch_xla", "jax._src.xla_bridge"),
    *("numba.cuda.cudadrv.driver", "cupy_backends.cuda.api.driver"),
)
"""The modules that the check asks."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put a module with these attributes where an import would put it."""

    def place(name: str, **attributes: Any) -> None:
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    return place


@contextmanager
def running(*names: str, target: Callable[..., object] | None = None) -> Iterator[None]:
    """Run threads of these names during the block."""
    end = threading.Event()
    threads = [threading.Thread(target=target or end.wait, name=name) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


@contextmanager
def no_child() -> Iterator[None]:
    """Fail if a process is forked."""
    forks: list[int] = []
    watching = True
    os.register_at_fork(before=lambda: forks.append(1) if watching else None)
    yield
    watching = False
    assert not forks


def only_ours(caught: pytest.WarningsRecorder) -> list[warnings.WarningMessage]:
    """Leave out the warnings of Python 3.12 and later about a fork with other threads."""
    return [warning for warning in caught if warning.category is UnsafeForkWarning]


# Where nothing is wrong


def test_a_plain_process_forks_without_a_warning() -> None:
    assert (find_certain(), find_likely([])) == ([], [])
    assert run(ranks.give, nprocs=2, start_method="fork") == [(0,), (1,)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_rank_that_was_not_forked_does_not_import_the_check(method: str) -> None:
    name = "procession._launch.fork_check"
    assert run_program("has_module_in_ranks.py", method, name).stdout == "[False]\n"


# Initialised runtimes


def initialise_torch(stand_in: StandIn) -> None:
    stand_in("torch.cuda", is_initialized=lambda: True)


def initialise_xpu(stand_in: StandIn) -> None:
    stand_in("torch.xpu", is_initialized=lambda: True)


def initialise_numba(stand_in: StandIn) -> None:
    driver = SimpleNamespace(is_initialized=True, initialization_error=None)
    stand_in("numba.cuda.cudadrv.driver", driver=driver)


def initialise_jax(stand_in: StandIn) -> None:
    stand_in("jax._src.xla_bridge", backends_are_initialized=lambda: True)


def initialise_torch_xla(stand_in: StandIn) -> None:
    library = SimpleNamespace(_xla_runtime_is_initialized=lambda: True)
    stand_in("torch_xla", _XLAC=library)


INITIALISE = {
    "CUDA is initialised in this process (torch)": initialise_torch,
    "XPU is initialised in this process (torch)": initialise_xpu,
    "CUDA is initialised in this process (numba)": initialise_numba,
    "XLA is initialised in this process (jax)": initialise_jax,
    "XLA is initialised in this process (torch_xla)": initialise_torch_xla,
}


@pytest.mark.parametrize("found", INITIALISE)
def test_an_initialised_runtime_is_an_error_and_nothing_is_started(
    found: str, stand_in: StandIn
) -> None:
    INITIALISE[found](stand_in)
    with no_child(), pytest.raises(UnsafeForkError) as caught:
        start_processes(ranks.nothing, nprocs=2, start_method="fork")
    assert [reason.split(": ")[0] for reason in caught.value.reasons] == [found]
    text = str(caught.value)
    assert f"{found}: forked ranks cannot use it" in text
    for way_out in ("'spawn'", "'forkserver'", "before the first use", "{'fork_check': 'warn'}"):
        assert way_out in text


def test_one_reason_names_all_libraries_of_a_runtime(stand_in: StandIn) -> None:
    for initialise in INITIALISE.values():
        initialise(stand_in)
    assert [reason.split(":")[0] for reason in find_certain()] == [
        "CUDA is initialised in this process (torch, numba)",
        "XPU is initialised in this process (torch)",
        "XLA is initialised in this process (jax, torch_xla)",
    ]


def test_an_imported_library_that_is_not_initialised_is_fine(stand_in: StandIn) -> None:
    stand_in("torch.cuda", is_initialized=lambda: False)
    stand_in("torch.xpu", is_initialized=lambda: False)
    fresh = SimpleNamespace(is_initialized=False, initialization_error=None)
    stand_in("numba.cuda.cudadrv.driver", driver=fresh)
    stand_in("jax._src.xla_bridge", backends_are_initialized=lambda: False)
    stand_in("torch_xla", _XLAC=SimpleNamespace(_xla_runtime_is_initialized=lambda: False))
    start_processes(ranks.nothing, nprocs=1, start_method="fork")


def test_numba_without_a_driver_is_fine(stand_in: StandIn) -> None:
    failed = SimpleNamespace(is_initialized=True, initialization_error="driver cannot be found")
    stand_in("numba.cuda.cudadrv.driver", driver=failed)
    assert find_certain() == []


def raise_error() -> bool:
    raise OSError("broken")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"is_initialized": None},
        {"is_initialized": raise_error, "backends_are_initialized": raise_error},
        {"is_initialized": lambda: None, "backends_are_initialized": lambda: "yes"},
        {"driver": None, "_XLAC": None, "ctxGetCurrent": raise_error},
        {"driver": SimpleNamespace(), "_XLAC": SimpleNamespace()},
    ],
    ids=["empty", "None", "raises", "no bool", "half", "other version"],
)
def test_a_library_that_cannot_answer_does_not_break_a_launch(
    attributes: dict[str, Any], stand_in: StandIn
) -> None:
    for module in PROBED:
        stand_in(module, **attributes)
    start_processes(ranks.nothing, nprocs=1, start_method="fork")


@pytest.mark.parametrize("value", [None, object(), 3])
def test_an_entry_of_sys_modules_that_is_no_module_does_not_break_a_launch(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in PROBED:
        monkeypatch.setitem(sys.modules, module, value)
    start_processes(ranks.nothing, nprocs=1, start_method="fork")


class Curious(ModuleType):
    """A module that imports each attribute on demand, as lazy modules do."""

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module("this_would_have_been_imported")


def test_the_check_imports_nothing(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("this")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    for module in PROBED:
        monkeypatch.setitem(sys.modules, module, Curious(module))
    monkeypatch.setitem(sys.modules, "torch.cuda", lazy)
    imported: list[str] = []

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            imported.append(name)

    def note(name: str, *arguments: Any) -> Any:
        imported.append(name)
        return original(name, *arguments)

    original = builtins.__import__
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        patch.setattr(builtins, "__import__", note)
        check_fork("error")
    own = {"_thread", "procession._launch.foreign_threads", "procession"}
    assert set(imported) <= own


# Open drivers


def set_drivers(monkeypatch: pytest.MonkeyPatch, *, exists: bool) -> None:
    """Have the check see one driver's device node or none."""
    real = os.path.exists
    found = {DRIVER: exists, OTHER_DRIVER: False}
    monkeypatch.setattr(
        os.path, "exists", lambda path: found[path] if path in found else real(path)
    )


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the check takes for a GPU's device node."""
    node, real = tmp_path / "node", os.readlink
    node.touch()
    set_drivers(monkeypatch, exists=True)

    def readlink(path: Any, **options: Any) -> Any:
        link = real(path, **options)
        return DRIVER if link == str(node) else link

    monkeypatch.setattr(os, "readlink", readlink)
    return node


@needs_proc
def test_an_open_driver_is_a_warning(driver: Path) -> None:
    assert find_likely([]) == []
    with driver.open(), pytest.warns(UnsafeForkWarning) as caught:
        start_processes(ranks.nothing, nprocs=1, start_method="fork")
    (warning,) = only_ours(caught)
    assert f"the CUDA driver is open in this process ({DRIVER})" in str(warning.message)


@needs_proc
def test_an_open_driver_of_a_named_runtime_is_not_named_twice(driver: Path) -> None:
    with driver.open():
        assert find_likely(["CUDA is initialised"]) == []


@needs_proc
@pytest.mark.parametrize("context", [0, 94_000_000_000_000])
def test_cupy_is_asked_for_a_context_only_where_a_driver_is_open(
    context: int, driver: Path, stand_in: StandIn
) -> None:
    asked = []

    def get_current() -> int:
        asked.append(1)
        return context

    stand_in("cupy_backends.cuda.api.driver", ctxGetCurrent=get_current)
    assert find_certain() == []
    assert asked == []  # the first call would load the driver, and on ROCm initialise it
    with driver.open():
        found = find_certain()
    assert [reason.split(":")[0] for reason in found] == [
        "CUDA is initialised in this process (cupy)"
    ] * (context != 0)


def test_without_a_driver_the_check_lists_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    real, listed = os.listdir, []

    def listdir(path: str) -> list[str]:
        listed.append(path)
        return real(path)

    set_drivers(monkeypatch, exists=False)
    monkeypatch.setattr(os, "listdir", listdir)
    check_fork("error")
    assert "/proc/self/fd" not in listed


# The option


@pytest.mark.parametrize("value", ["", "ERROR", None, True, "ignore"])
def test_a_bad_value_is_an_error_before_anything_starts(value: Any) -> None:
    with no_child(), pytest.raises(ValueError, match=r"fork_check.*'error', 'warn', 'off'"):
        start_processes(ranks.nothing, nprocs=2, start_method="fork", options={"fork_check": value})


def test_warn_warns_of_everything_at_once(stand_in: StandIn) -> None:
    initialise_torch(stand_in)
    with running("loader"), pytest.warns(UnsafeForkWarning) as caught:
        start_processes(
            ranks.nothing, nprocs=2, start_method="fork", options={"fork_check": "warn"}
        )
    (warning,) = only_ours(caught)
    assert "CUDA is initialised in this process (torch)" in str(warning.message)
    assert "(loader)" in str(warning.message)


def test_off_checks_nothing(stand_in: StandIn) -> None:
    initialise_torch(stand_in)
    with running("loader"):
        start_processes(ranks.nothing, nprocs=2, start_method="fork", options={"fork_check": "off"})


def test_error_is_the_default_and_warns_of_what_is_likely(stand_in: StandIn) -> None:
    with running("loader"), pytest.warns(UnsafeForkWarning, match="loader"):
        check_fork("error")
    initialise_torch(stand_in)
    with running("loader"), pytest.raises(UnsafeForkError) as caught:
        check_fork("error")
    assert len(caught.value.reasons) == 1


def test_a_warning_that_is_an_error_starts_nothing() -> None:
    with warnings.catch_warnings(), running("loader"), no_child():
        warnings.simplefilter("error")
        with pytest.raises(UnsafeForkWarning):
            start_processes(ranks.nothing, nprocs=2, start_method="fork")


def test_other_start_methods_are_not_checked_and_have_no_such_option(stand_in: StandIn) -> None:
    initialise_torch(stand_in)
    with running("loader"):
        start_processes(ranks.nothing, nprocs=1, start_method="spawn")
    with pytest.raises(ValueError, match="does not know 'fork_check'"):
        start_processes(ranks.nothing, start_method="spawn", options={"fork_check": "off"})


def test_portable_launches_are_checked_too() -> None:
    environment = {**os.environ, "PROCESSION_PORTABLE": "1"}
    assert run_program("forks_with_cuda.py", env=environment).stdout == "refused\n"


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(UnsafeForkError(["one", "two"])))
    assert error.reasons == ("one", "two")
    assert "\n - one\n - two\n" in str(error)
