"""A forked rank has the signal handlers of a new process, and does not wake its caller's event loop.

Promises: A caller that is asked to end lets its ranks save their work; Launches do not disturb each
other.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import Signals, run, start_processes
from procession._python.defer_signals import defer_sigint
from procession._rank.fork_signals import Inheritance
from procession.testing.scratch import state_of
from scripts import run_program

FRESH = {
    "SIGTERM": "0",
    "SIGTSTP": "0",
    "SIGINT": "<built-in function default_int_handler>",
    "SIGHUP": "0",
    "SIGCHLD": "0",
}
OFF = {"fork_check": "off"}


def see_mask(rank: int) -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))


@contextmanager
def handlers(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle signals during the block."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def callers(*_: object) -> None:
    """Do nothing, as a handler of the caller's; SIGCHLD runs it in the caller."""


def test_forked_ranks_do_not_inherit_the_callers_handlers() -> None:
    with handlers(callers, *ENDING):
        assert run(ranks.see_handlers, nprocs=2, start_method="fork") == [FRESH, FRESH]


def test_ignored_signals_stay_ignored_as_after_exec(start_method: str) -> None:
    with handlers(signal.SIG_IGN, signal.SIGHUP, signal.SIGINT):
        (seen,) = run(ranks.see_handlers, nprocs=1, start_method=start_method)
    assert seen == {**FRESH, "SIGHUP": "1", "SIGINT": "1"}


def test_ranks_ignore_and_block_what_the_caller_does_at_the_call(start_method: str) -> None:
    """A forkserver is older than the launches that it serves."""

    def see() -> tuple[str, set[int]]:
        (seen,) = run(ranks.see_handlers, ("SIGINT",), 1, start_method=start_method)
        return seen["SIGINT"], run(see_mask, nprocs=1, start_method=start_method)[0]

    plain = FRESH["SIGINT"], see_mask(0)
    for _ in range(2):
        assert see() == plain
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            with handlers(signal.SIG_IGN, signal.SIGINT):
                assert see() == ("1", {*plain[1], signal.SIGUSR2})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


def test_a_launch_from_a_thread_resets_handlers_too() -> None:
    seen: list[dict[str, str]] = []

    def launch() -> None:
        seen.extend(run(ranks.see_handlers, nprocs=1, start_method="fork", options=OFF))

    with handlers(callers, *ENDING):
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    assert seen == [FRESH]


def test_handlers_in_c_are_reset_too() -> None:
    with open(os.devnull, "w") as file:
        faulthandler.register(signal.SIGTERM, file=file)
        try:
            assert ranks.see_handlers(0)["SIGTERM"] == "in C"
            assert run(ranks.see_handlers, nprocs=1, start_method="fork") == [FRESH]
        finally:
            faulthandler.unregister(signal.SIGTERM)


def test_handlers_of_other_signals_stay() -> None:
    names = ("SIGUSR1", "SIGUSR2")
    with open(os.devnull, "w") as file, handlers(callers, signal.SIGUSR2):
        faulthandler.register(signal.SIGUSR1, file=file)
        try:
            (seen,) = run(ranks.see_handlers, names, nprocs=1, start_method="fork")
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert seen == {"SIGUSR1": "in C", "SIGUSR2": str(callers)}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_to_a_rank_does_not_reach_the_callers_loop(loop: str) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip("pip install uvloop")
    done = run_program("signals_ranks_from_a_loop.py", loop)
    assert done.stdout.splitlines() == ["[-10, -10] []", "SIGUSR1"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP"), ("SIGINT", "KeyboardInterrupt")],
)
def test_a_signal_at_the_fork_does_not_reach_the_callers_loop(name: str, cause: str) -> None:
    done = run_program("signals_ranks_at_the_fork.py", name)
    assert done.stdout.splitlines() == [cause, "asleep"]


def test_ranks_inherit_the_callers_signal_mask() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with handlers(callers, signal.SIGTERM):
            seen = run(see_mask, nprocs=2, start_method="fork")
        assert see_mask(0) == {*before, signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert seen == [{*before, signal.SIGUSR2}] * 2


def test_keep_handlers_keeps_the_callers_handlers() -> None:
    with handlers(callers, *ENDING):
        (seen,) = run(
            ranks.see_handlers, nprocs=1, start_method="fork", signals=Signals(keep_handlers=True)
        )
    assert seen == {**dict.fromkeys(FRESH, str(callers)), "SIGTSTP": "0"}


def test_keep_handlers_does_not_keep_those_of_an_event_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, callers)
        loop.add_signal_handler(signal.SIGHUP, callers)  # deferred while ranks are forked
        with handlers(callers, signal.SIGTERM):
            (seen,) = run(
                ranks.see_handlers,
                ("SIGUSR1", "SIGHUP", "SIGTERM", "SIGTSTP"),
                nprocs=1,
                start_method="fork",
                options=OFF,
                signals=Signals(keep_handlers=True),
            )
        for number in (signal.SIGUSR1, signal.SIGHUP):
            loop.remove_signal_handler(number)
        own = {"SIGTERM": str(callers), "SIGTSTP": "0"}
        assert seen == {"SIGUSR1": "0", "SIGHUP": "0", **own}

    asyncio.run(main())


@pytest.mark.parametrize("keep", [False, True])
def test_keep_handlers_applies_to_handlers_that_a_preloaded_module_sets(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handles.py").write_text(
        "import signal\nfor one in (15, 2, 1, 17):\n    signal.signal(one, print)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (seen,) = run(
        ranks.see_handlers,
        nprocs=1,
        start_method="forkserver",
        options={"preload": ["handles"]},
        signals=Signals(keep_handlers=keep),
    )
    assert seen == ({**dict.fromkeys(FRESH, str(print)), "SIGTSTP": "0"} if keep else FRESH)


def launch_inside(rank: int) -> list[dict[str, str]]:
    signal.signal(signal.SIGTERM, callers)
    return run(ranks.see_handlers, nprocs=1, start_method="fork")


def test_ranks_of_a_rank_do_not_inherit_its_handlers(start_method: str) -> None:
    assert run(launch_inside, nprocs=1, start_method=start_method) == [[FRESH]]


def stop_helper(folder: Path) -> Callable[..., None]:
    """Return a SIGTERM handler that does not exit, as a service has it."""
    return lambda *_: (folder / "stopped").touch()


def test_stopping_ranks_does_not_run_the_callers_handler(start_method: str, tmp_path: Path) -> None:
    with handlers(stop_helper(tmp_path), signal.SIGTERM):
        context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
        context.terminate()
    assert [process.exitcode for process in context.processes] == [-signal.SIGTERM] * 2
    assert not (tmp_path / "stopped").exists()
    assert all(state_of(pid) in "XZ" for pid in context.pids() if pid)


def test_portable_launches_reset_handlers_too() -> None:
    env = {**os.environ, "PROCESSION_PORTABLE": "1"}
    done = run_program("keeps_handlers_when_forked.py", env=env)
    assert done.stdout.splitlines() == ["0", str(print)]


def test_a_forked_child_does_not_defer_interrupts_as_its_parent_does() -> None:
    with defer_sigint():
        inheritance = Inheritance(keep_handlers=True)
        pid = os.fork()
        if pid == 0:
            try:
                inheritance.reset()
                os._exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
            finally:
                os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
