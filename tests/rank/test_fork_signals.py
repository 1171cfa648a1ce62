"""A forked rank has the signal handlers of a fresh process, and no part in its caller's loop.

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
from procession.testing.scratch import state_of
from scripts import execute

FRESH = {
    "SIGTERM": "0",
    "SIGTSTP": "0",
    "SIGINT": "<built-in function default_int_handler>",
    "SIGHUP": "0",
    "SIGCHLD": "0",
}
OFF = {"fork_check": "off"}


def see_handlers(rank: int, *names: str) -> dict[str, str]:
    """Tell what a rank does about signals, as Python and as the kernel know it."""
    caught = int(read_status("SigCgt"), 16)
    seen = {}
    for name in names or FRESH:
        number = getattr(signal, name)
        action = __import__("_signal").getsignal(number)
        in_c = caught >> (number - 1) & 1 and not callable(action)
        seen[name] = "in C" if in_c else str(action)
    return seen


def see_mask(rank: int) -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))


def read_status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field))


@contextmanager
def handlers(handler: Any, *numbers: int) -> Iterator[None]:
    """Have signals handled meanwhile."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def callers(*_: object) -> None:
    """Be the caller's handler, which SIGCHLD runs in the caller."""


def test_the_callers_handlers_are_its_own() -> None:
    with handlers(callers, *ENDING):
        assert run(see_handlers, nprocs=2, start_method="fork") == [FRESH, FRESH]


def test_what_is_ignored_stays_ignored_as_after_exec(start_method: str) -> None:
    with handlers(signal.SIG_IGN, signal.SIGHUP, signal.SIGINT):
        (seen,) = run(see_handlers, nprocs=1, start_method=start_method)
    assert seen == {**FRESH, "SIGHUP": "1", "SIGINT": "1"}


def test_what_is_ignored_and_blocked_is_so_at_the_call(start_method: str) -> None:
    """A forkserver is older than the launches that it serves."""

    def see() -> tuple[str, set[int]]:
        (seen,) = run(see_handlers, ("SIGINT",), 1, start_method=start_method)
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


def test_a_launch_from_a_thread() -> None:
    seen: list[dict[str, str]] = []

    def launch() -> None:
        seen.extend(run(see_handlers, nprocs=1, start_method="fork", options=OFF))

    with handlers(callers, *ENDING):
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    assert seen == [FRESH]


def test_handlers_that_are_not_pythons_go_as_well() -> None:
    with open(os.devnull, "w") as file:
        faulthandler.register(signal.SIGTERM, file=file)
        try:
            assert see_handlers(0)["SIGTERM"] == "in C"
            assert run(see_handlers, nprocs=1, start_method="fork") == [FRESH]
        finally:
            faulthandler.unregister(signal.SIGTERM)


def test_other_handlers_stay() -> None:
    names = ("SIGUSR1", "SIGUSR2")
    with open(os.devnull, "w") as file, handlers(callers, signal.SIGUSR2):
        faulthandler.register(signal.SIGUSR1, file=file)
        try:
            (seen,) = run(see_handlers, names, nprocs=1, start_method="fork")
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert seen == {"SIGUSR1": "in C", "SIGUSR2": str(callers)}


IN_A_LOOP = """
    import asyncio, importlib, os, signal, sys
    from procession import ProcessExitedException, start_processes

    def raise_usr1(rank):
        os.kill(os.getpid(), signal.SIGUSR1)

    async def main():
        called = []
        loop = asyncio.get_running_loop()
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, called.append, number)
        options = {"fork_check": "off"}
        context = start_processes(raise_usr1, (), 2, False, start_method="fork", options=options)
        for process in context.processes:
            process.join()
        await asyncio.sleep(0.05)  # what was written to the loop's socket is read
        print([process.exitcode for process in context.processes], called)
        try:
            await context
        except ProcessExitedException as error:
            print(error.signal_name)

    if __name__ == "__main__":
        loop = importlib.import_module(sys.argv[1]).new_event_loop()
        loop.run_until_complete(main())
        loop.close()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_to_a_rank_does_not_reach_the_callers_loop(loop: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip("pip install uvloop")
    printed = execute(tmp_path, IN_A_LOOP, loop).splitlines()
    assert printed == ["[-10, -10] []", "SIGUSR1"]


SENT_AT_ONCE = """
    import os, signal, socket, sys
    from procession import ProcessExitedException, ProcessRaisedException, Signals, start_processes

    def work(rank):
        raise AssertionError("the signal has not come")

    def ours(*_):
        os.write(1, b"the caller's handler\\n")

    if __name__ == "__main__":
        number = getattr(signal, sys.argv[1])
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        signal.set_wakeup_fd(b.fileno())
        signal.signal(number, ours)
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), number))
        try:
            start_processes(work, nprocs=2, start_method="fork")
        except ProcessExitedException as error:
            print(error.signal_name)
        except ProcessRaisedException as error:
            print(str(error).splitlines()[-1])
        try:
            print("woken", a.recv(9))
        except BlockingIOError:
            print("asleep")
"""


@pytest.mark.parametrize(
    ("name", "cause"),
    [("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP"), ("SIGINT", "KeyboardInterrupt")],
)
def test_nor_does_one_in_the_instant_of_the_fork(name: str, cause: str, tmp_path: Path) -> None:
    assert execute(tmp_path, SENT_AT_ONCE, name).splitlines() == [cause, "asleep"]


def test_the_mask_is_the_callers() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with handlers(callers, signal.SIGTERM):
            seen = run(see_mask, nprocs=2, start_method="fork")
        assert see_mask(0) == {*before, signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert seen == [{*before, signal.SIGUSR2}] * 2


def test_the_caller_may_want_its_handlers_kept() -> None:
    with handlers(callers, *ENDING):
        (seen,) = run(
            see_handlers, nprocs=1, start_method="fork", signals=Signals(keep_handlers=True)
        )
    assert seen == {**dict.fromkeys(FRESH, str(callers)), "SIGTSTP": "0"}


def test_but_not_those_of_an_event_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, callers)
        loop.add_signal_handler(signal.SIGHUP, callers)  # which is deferred while ranks are forked
        with handlers(callers, signal.SIGTERM):
            (seen,) = run(
                see_handlers,
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
def test_a_module_that_the_forkserver_imports_may_set_handlers(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handles.py").write_text(
        "import signal\nfor one in (15, 2, 1, 17):\n    signal.signal(one, print)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (seen,) = run(
        see_handlers,
        nprocs=1,
        start_method="forkserver",
        options={"preload": ["handles"]},
        signals=Signals(keep_handlers=keep),
    )
    assert seen == ({**dict.fromkeys(FRESH, str(print)), "SIGTSTP": "0"} if keep else FRESH)


def launch_inside(rank: int) -> list[dict[str, str]]:
    signal.signal(signal.SIGTERM, callers)
    return run(see_handlers, nprocs=1, start_method="fork")


def test_ranks_of_a_rank(start_method: str) -> None:
    assert run(launch_inside, nprocs=1, start_method=start_method) == [[FRESH]]


def stop_helper(folder: Path) -> Callable[..., None]:
    """Return a service's own SIGTERM handler, which does not exit."""
    return lambda *_: (folder / "stopped").touch()


def test_ranks_are_stopped_without_the_callers_shutdown(start_method: str, tmp_path: Path) -> None:
    with handlers(stop_helper(tmp_path), signal.SIGTERM):
        context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
        context.terminate()
    assert [process.exitcode for process in context.processes] == [-signal.SIGTERM] * 2
    assert not (tmp_path / "stopped").exists()
    assert all(state_of(pid) in "XZ" for pid in context.pids() if pid)


def test_without_our_own_mechanisms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSION_PORTABLE", "1")
    folders = map(str, Path(__file__).parents[:2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
    text = """
        import signal
        from procession import Signals, run
        from test_fork_signals import see_handlers

        if __name__ == "__main__":
            signal.signal(signal.SIGTERM, print)
            for keep in (False, True):
                one = run(see_handlers, ("SIGTERM",), 1, start_method="fork", signals=Signals((), keep))
                print(one[0]["SIGTERM"])
    """
    assert execute(tmp_path, text).splitlines() == ["0", str(print)]
