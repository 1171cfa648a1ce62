"""Before a fork, other threads are named, except those that a fork does not harm."""

from __future__ import annotations

import _thread
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from test_fork_check import needs_proc, only_ours, running

import ranks
from procession import UnsafeForkWarning, get_context, start_processes
from procession._launch.fork_check import find_likely, find_threads
from scripts import PROGRAMS, run_program


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


def test_a_thread_that_cannot_name_itself_does_not_break_a_launch() -> None:
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
        threading.current_thread()  # from now on threading lists it; before 3.13 also after its end
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
    threading._active.pop(ident, None)  # type: ignore[attr-defined]  # otherwise the test leaves a thread


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


def test_the_threads_of_a_notebooks_kernel_are_not_named() -> None:
    pytest.importorskip("ipykernel", reason="could not import 'ipykernel'")
    pytest.importorskip("nbclient", reason="could not import 'nbclient'")
    text = run_program("runs_a_notebook.py", str(PROGRAMS / "cells_that_fork.py")).stdout
    assert text.startswith("[0, 1] True\n")
    assert " - other threads run in this process (of a cell): " in text


def test_the_pool_of_openmp_is_named_and_openblas_is_not() -> None:
    pytest.importorskip("sklearn", reason="could not import 'sklearn' (pip install scikit-learn)")
    assert run_program("forks_with_native_threads.py").stdout == "[0]\n"
