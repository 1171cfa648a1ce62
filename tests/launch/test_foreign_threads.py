"""Before a fork, other threads are named, but for those that a fork does no harm."""

from __future__ import annotations

import _thread
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_fork_check import needs_proc, only_ours, running

import ranks
from procession import UnsafeForkWarning, get_context, start_processes
from procession._launch.fork_check import find_likely, find_threads
from scripts import execute


def test_another_thread_is_a_warning_at_the_callers_line() -> None:
    with running("loader"), pytest.warns(UnsafeForkWarning, match=r"\(loader\)") as caught:
        start_processes(ranks.nothing, nprocs=2, start_method="fork")
    (warning,) = only_ours(caught)
    assert warning.filename == __file__
    text = str(warning.message)
    assert "other threads run in this process (loader): a fork does not copy them" in text
    assert "Use start_method='spawn' or 'forkserver'" in text


def test_the_calling_thread_is_not_named() -> None:
    found: list[list[str]] = []
    with running("caller", target=lambda: found.append(find_threads())):
        pass
    assert found == [["MainThread"]]


def test_a_few_threads_are_named_and_the_others_counted() -> None:
    with running(*map(str, range(1, 9))):
        assert "(1, 2, 3, 4, 5 and 3 more)" in find_likely([])[0]


def test_a_thread_that_cannot_be_asked_does_not_break_a_launch() -> None:
    class Odd(threading.Thread):
        @property
        def name(self) -> str:  # type: ignore[override]
            raise OSError("broken")

    end = threading.Event()
    thread = Odd(target=end.wait, daemon=True)
    thread._name = "odd"  # type: ignore[attr-defined]
    thread.start()
    try:
        assert find_threads() == []
    finally:
        end.set()
        thread.join()


@needs_proc
def test_a_foreign_thread_that_has_ended_is_not_named() -> None:
    known, end = threading.Event(), threading.Event()

    def live() -> None:
        threading.current_thread()  # threading learns of it, and forgets it since 3.13 only
        known.set()
        end.wait()

    ident = _thread.start_new_thread(live, ())
    try:
        assert known.wait(10)
        (name,) = find_threads()
        assert name.startswith("Dummy-")
    finally:
        end.set()
    while find_threads():
        time.sleep(0.01)
    threading._active.pop(ident, None)  # type: ignore[attr-defined]  # or the test leaves a thread


def test_a_queues_feeder_is_not_named() -> None:
    queue: Any = get_context("fork").Queue()
    queue.put("early")
    before = {thread.name for thread in threading.enumerate()}
    assert "QueueFeederThread" in before
    start_processes(ranks.put, (queue,), 1, start_method="fork")
    assert [queue.get(timeout=10), queue.get(timeout=10)] == ["early", 0]
    queue.close()
    queue.join_thread()


class Module:
    """Makes threads whose class or target comes from a module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def of_class(self, end: threading.Event) -> threading.Thread:
        class Kind(threading.Thread):
            __module__ = self.name

        return Kind(target=end.wait)

    def of_target(self, end: threading.Event) -> threading.Thread:
        def target(*_: object) -> None:
            end.wait()

        target.__module__ = self.name
        return threading.Thread(target=functools.partial(target, 1))


@pytest.mark.parametrize(
    "module", ["tqdm._monitor", "pydevd", "_pydevd_bundle.pydevd_comm", "mine"]
)
@pytest.mark.parametrize("make", [Module.of_class, Module.of_target])
def test_threads_that_survive_are_known_by_their_module(
    module: str, make: Callable[[Module, threading.Event], threading.Thread]
) -> None:
    end = threading.Event()
    thread = make(Module(module), end)
    thread.start()
    try:
        assert find_threads() == [thread.name] * (module == "mine")
    finally:
        end.set()
        thread.join()


NOTEBOOK = """
import sys, threading, warnings, nbformat, nbclient
cells = map(nbformat.v4.new_code_cell, open(sys.argv[1]).read().split("# cell"))
book = nbformat.v4.new_notebook(cells=list(cells))
nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
print("".join(output["text"] for cell in book.cells for output in cell.outputs))
"""
CELLS = """
import threading, warnings
from procession import UnsafeForkWarning, run
def give(rank):
    return rank
warnings.simplefilter("error", UnsafeForkWarning)
print(run(give, nprocs=2, start_method="fork"), len(threading.enumerate()) > 3)
# cell
end = threading.Event()
threading.Thread(target=end.wait, name="of a cell").start()
try:
    run(give, nprocs=2, start_method="fork")
except UnsafeForkWarning as warning:
    print(str(warning).splitlines()[1])
end.set()
"""


def test_a_notebooks_kernel_is_not_warned_of_its_own_threads(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="could not import 'ipykernel'")
    pytest.importorskip("nbclient", reason="could not import 'nbclient'")
    (tmp_path / "cells.py").write_text(CELLS)
    text = execute(tmp_path, NOTEBOOK, str(tmp_path / "cells.py"))
    assert text.startswith("[0, 1] True\n")
    assert " - other threads run in this process (of a cell): " in text


POOL = """
import ctypes, glob, os, sys, warnings
import numpy
import sklearn
from procession import UnsafeForkWarning, run
from procession._launch.foreign_threads import find_foreign_threads

assert find_foreign_threads() == [], find_foreign_threads()  # OpenBLAS's are prepared for a fork
[library] = glob.glob(os.path.join(os.path.dirname(sklearn.__file__), "../scikit_learn.libs/libgomp*"))
function = ctypes.CDLL(None).sched_yield
ctypes.CDLL(library).GOMP_parallel(function, None, 3, 0)
assert len(find_foreign_threads()) == 2, find_foreign_threads()
warnings.simplefilter("error", UnsafeForkWarning)
try:
    run(abs, nprocs=1, start_method="fork")
except UnsafeForkWarning as warning:
    assert "threads that Python did not start run in this process (python" in str(warning), warning
    warnings.simplefilter("ignore", UnsafeForkWarning)
    print(run(abs, nprocs=1, start_method="fork"))
"""


def test_the_pool_of_openmp_is_named_and_openblas_is_not(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="could not import 'sklearn' (pip install scikit-learn)")
    assert execute(tmp_path, POOL) == "[0]\n"
