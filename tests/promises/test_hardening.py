"""Launches withstand signal handlers and threads in the middle of a wait, forks, and odd timeouts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    Launch,
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    Report,
    Started,
    get_context,
    run,
    start_processes,
)
from procession.testing.times import patience
from scripts import run_program
from through import Through


def wait(rank: int, event: Any) -> None:
    event.wait()


def test_await_returns_though_another_call_took_the_events(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        task = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0)
        event.set()
        assert context.wait()  # in the loop's thread: the loop sees no event meanwhile
        assert await asyncio.wait_for(task, 10)

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


def test_await_returns_beside_a_thread_that_joins(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(wait, (event,), 2, join=False, start_method=start_method)
        joined = asyncio.ensure_future(asyncio.to_thread(context.wait))
        awaited = asyncio.ensure_future(until_ended(context))
        await asyncio.sleep(0.02)
        event.set()
        assert list(await asyncio.wait_for(asyncio.gather(joined, awaited), 10)) == [True, True]

    async def until_ended(context: Any) -> bool:
        return bool(await context)

    asyncio.run(main())


class HandlerError(BaseException):
    """What a signal handler raises, wherever the program is."""


class Interrupted:
    """A process or channel that raises at one place, once for all that share ``raised``.

    The place is the name of an attribute, or ``received`` for the end of ``receive``.
    """

    def __init__(self, inner: Any, place: str, raised: list[bool]) -> None:
        self.inner, self.place, self.raised = inner, place, raised

    def __getattr__(self, name: str) -> Any:
        if name == self.place:
            self._raise_once()
        return getattr(self.inner, name)

    def receive(self) -> Report | None:
        if self.place == "receive":
            self._raise_once()
        report: Report | None = self.inner.receive()
        if self.place == "received" and report is not None:
            self._raise_once()
        return report

    def _raise_once(self) -> None:
        if not self.raised:
            self.raised.append(True)
            raise HandlerError


@dataclass
class InterruptedBackend(Through):
    """A backend whose handles of ranks raise at one place."""

    place: str = ""
    raised: list[bool] = field(default_factory=list)

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        return started.replace(
            processes=[Interrupted(one, self.place, self.raised) for one in started.processes],
            error_channels=[
                Interrupted(one, self.place, self.raised) for one in started.error_channels
            ],
        )


@pytest.mark.parametrize("size", [10, 100_000])  # the second travels as a file
@pytest.mark.parametrize("place", ["receive", "received", "join", "exitcode", "lost", "close"])
def test_an_exception_in_the_middle_of_a_wait_loses_nothing(
    start_method: str, place: str, size: int
) -> None:
    """A signal handler may raise one between any two steps, as where a report is read but not kept."""
    backend = InterruptedBackend(start_method, place=place)
    context = start_processes(
        give_text, (size,), 3, join=False, collect_results=True, start_method=backend
    )
    with pytest.raises(HandlerError):
        context.wait()
    assert context.results() == ["x" * size] * 3


def give_text(rank: int, size: int) -> str:
    return "x" * size


def test_terminate_in_a_signal_handler_during_join(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    previous = signal.signal(signal.SIGUSR1, lambda *_: context.terminate())
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        assert context.wait()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert [process.exitcode for process in context.processes] == [-15, -15]


def test_terminate_in_the_middle_of_a_stop(start_method: str) -> None:
    """A signal handler may call it there; here a handler of the log does, as the first rank is stopped."""
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    handler = TerminateOnce(context)
    log = logging.getLogger("procession")
    log.addHandler(handler)
    try:
        context.terminate()
        assert context.wait()
    finally:
        log.removeHandler(handler)
    assert handler.called


class TerminateOnce(logging.Handler):
    """Terminates a launch at the first warning."""

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(logging.WARNING)
        self.context, self.called = context, False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.called:
            self.called = True
            self.context.terminate()


def test_a_later_stop_hastens_one_under_way(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    caught: list[BaseException] = []

    def join() -> None:
        try:
            context.wait(grace_period=60)
        except ProcessRaisedException as error:
            caught.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    context.processes[1].join(30)
    begun = time.monotonic()
    context.terminate(grace_period=0.1)
    thread.join(30)
    assert time.monotonic() - begun < 10
    assert len(caught) == 1


@pytest.mark.parametrize("ending", ["return", "exit 0", "exit 3", "raise"])
def test_a_process_that_a_rank_forked_cannot_report_for_it(start_method: str, ending: str) -> None:
    with pytest.raises(ProcessRaisedException, match="the real cause"):
        start_processes(fork_then_fail, (ending,), 1, start_method=start_method)
    if ending == "return":
        assert run(fork_then_return, start_method=start_method) == ["the rank's"]


def fork_then_fail(rank: int, ending: str) -> None:
    if os.fork() == 0:
        if ending == "return":
            return
        if ending == "raise":
            raise KeyError("of the child")
        sys.exit(int(ending.split()[1]))
    os.wait()
    raise ValueError("the real cause")


def fork_then_return(rank: int) -> str:
    if os.fork() == 0:
        return "the child's"
    os.wait()
    return "the rank's"


def test_an_exit_does_not_wait_for_a_daemon_thread_that_joins(start_method: str) -> None:
    begun = time.monotonic()
    run_program("leaves_a_thread_that_waits.py", start_method)
    assert time.monotonic() - begun < patience(20)


@pytest.mark.parametrize("attempt", range(3))
def test_many_threads_may_launch_first_at_the_same_time(start_method: str, attempt: int) -> None:
    """Each finds modules that another thread has only half imported."""
    done = run_program("launches_from_six_threads.py", start_method)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("function", ["leave", "_become_rank"])
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])  # spawn has no frames below
def test_an_interrupt_stays_in_the_rank_that_begins_or_leaves(
    start_method: str, function: str
) -> None:
    """In a fork, an uncaught exception would unwind into the frames of the process that forked."""
    printed = run_program("interrupts_a_rank.py", start_method, function).stdout.splitlines()
    assert "interrupted" in printed
    outcome = [line for line in printed if line != "interrupted"]
    assert outcome[0] in ("well", "exit code 1")
    assert outcome[1:] == ["the caller"]


def test_timeouts_may_be_years_long(start_method: str) -> None:
    year = 366 * 86_400.0
    context = start_processes(
        ranks.nothing, nprocs=2, join=False, start_method=start_method, timeout=1e12
    )
    context.processes[0].join(year)
    assert context.wait(year)


def test_finalizers_run_in_every_launch(start_method: str, tmp_path: Path) -> None:
    for launch in range(2):
        start_processes(finalize, (str(tmp_path / f"file {launch}"),), 1, start_method=start_method)
        assert (tmp_path / f"file {launch}").exists()


def finalize(rank: int, path: str) -> None:
    weakref.finalize(sys, Path(path).touch)


@pytest.mark.filterwarnings("ignore:start_method='fork' is not safe here:RuntimeWarning")  # threads
def test_launches_work_in_an_executor_thread_and_in_asyncio(
    start_method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        begun = time.monotonic()
        with pytest.raises(ProcessExitedException):
            start_processes(ranks.fail_in, (1, "_exit 7"), 2, start_method=start_method)
        assert time.monotonic() - begun < patience(4)  # ranks that ignore SIGTERM get 5 s
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        await asyncio.to_thread(
            start_processes, finalize, (str(tmp_path / "file"),), 1, start_method=start_method
        )

    asyncio.run(main())
    assert (tmp_path / "file").exists()
    assert "cannot join current thread" not in capfd.readouterr().err


def test_a_context_in_a_fork_raises_an_error_that_names_its_process(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=1, join=False, start_method=start_method)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            context.wait(0)
        except RuntimeError as error:
            status = "belongs to process" not in str(error)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    context.terminate()
