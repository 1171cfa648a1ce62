"""P6, P8, P9: ranks end in bounded time, whatever they do, and with whatever becomes of the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import ProcessRaisedException, ProcessTimeoutError, get_context, start_processes


def test_a_rank_that_ignores_sigterm_is_killed_after_the_grace_period(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException):
        context.join(grace_period=0.2)
    assert time.monotonic() - begun < 5
    assert context.processes[0].exitcode == -signal.SIGKILL


def test_grace_period_of_the_launch_is_the_default(start_method: str) -> None:
    ready = get_context(start_method).Event()
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.stubborn, (ready,), 2, start_method=start_method, grace_period=0.1)
    assert caught.value.failures[1].signal_name == "SIGKILL"


def test_a_stopped_rank_is_continued_to_its_end(start_method: str) -> None:
    ready = get_context(start_method).SimpleQueue()
    context = start_processes(ranks.stopped, (ready,), 2, join=False, start_method=start_method)
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException):
        context.join()
    assert time.monotonic() - begun < 4  # the grace period alone is 5 s
    assert context.processes[0].exitcode == -signal.SIGTERM
    ready.close()


@pytest.mark.parametrize("grandchild", ["group", "rank 0's"])
def test_what_ranks_started_ends_with_them(start_method: str, grandchild: str) -> None:
    queue = get_context(start_method).SimpleQueue()
    with pytest.raises(ProcessRaisedException):
        start_processes(start_program, (queue, grandchild == "group"), 2, start_method=start_method)
    pid = queue.get()
    until = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < until
        time.sleep(0.005)
    queue.close()


def start_program(rank: int, queue: Any, failing_has_it: bool) -> None:
    if rank == int(failing_has_it):
        queue.put(subprocess.Popen(["sleep", "60"]).pid)
    if rank == 1:
        while queue.empty():
            time.sleep(0.001)
        raise ValueError("boom")
    time.sleep(60)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_deadline_stops_all_and_raises(start_method: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ProcessTimeoutError, match=r"did not end within 0\.2 s") as caught:
        start_processes(ranks.work, nprocs=2, start_method=start_method, timeout=0.2)
    assert time.monotonic() - begun < 5
    assert isinstance(caught.value, TimeoutError)
    assert sorted(one.rank for one in caught.value.failures) == [0, 1]
    assert all(one.collateral for one in caught.value.failures)


def test_deadline_holds_for_a_later_join_too(start_method: str) -> None:
    context = start_processes(
        ranks.work, nprocs=2, start_method=start_method, timeout=0.1, join=False
    )
    with pytest.raises(ProcessTimeoutError):
        context.join(30)
    with pytest.raises(ProcessTimeoutError):
        context.join()


CALLER = """
    import os, signal, sys, threading, time
    from procession import start_processes

    def work(rank, folder, how):
        if how == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if how == "noting":
            signal.signal(signal.SIGINT, lambda *_: tell(rank, folder, "interrupted"))
        if how == "catching":
            while True:
                try:
                    tell(rank, folder)
                    time.sleep(60)
                except KeyboardInterrupt:
                    pass
        tell(rank, folder)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.5)
            with open(f"{folder}/cleaned.{rank}", "w"):
                pass
            raise

    def tell(rank, folder, what="pid"):
        with open(f"{folder}/new.{rank}", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{folder}/new.{rank}", f"{folder}/{what}.{rank}")

    def launch():
        return start_processes(
            work, (sys.argv[2], sys.argv[3]), 2, start_method=sys.argv[1], join=False
        )

    if __name__ == "__main__":
        if sys.argv[3] == "thread":
            made = []
            thread = threading.Thread(target=lambda: made.append(launch()))
            thread.start()
            thread.join()
            context = made[0]
        else:
            context = launch()
        context.join(grace_period=None if sys.argv[3] == "cleaning" else 3)
"""


class Caller:
    """A process that launches two ranks, which have told their pids in a folder."""

    def __init__(self, folder: Path, start_method: str, how: str, **options: Any) -> None:
        self.folder = folder
        path = folder / "caller.py"
        path.write_text(textwrap.dedent(CALLER))
        self.process = subprocess.Popen(
            [sys.executable, str(path), start_method, str(folder), how],
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.pids = [self.read("pid", rank) for rank in range(2)]

    def read(self, what: str, rank: int) -> int:
        path = self.folder / f"{what}.{rank}"
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until
            time.sleep(0.005)
        return int(path.read_text())

    def wait_for_ranks(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while left := [pid for pid in self.pids if is_running(pid)]:
            assert time.monotonic() < until, f"still running: {left}"
            time.sleep(0.005)

    def close(self) -> None:
        for pid in (*self.pids, self.process.pid):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def callers(tmp_path: Path, start_method: str) -> Iterator[Any]:
    """Make callers, and end them after the test."""
    made: list[Caller] = []

    def make(how: str = "plain", **options: Any) -> Caller:
        made.append(Caller(tmp_path, start_method, how, **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("how", ["plain", "stubborn", "catching", "thread"])
def test_ranks_end_with_their_caller(callers: Any, how: str, number: int) -> None:
    caller = callers(how)
    caller.process.send_signal(number)
    caller.wait_for_ranks(2)


def test_ranks_end_with_a_caller_that_was_started_ignoring_interrupts(callers: Any) -> None:
    """As by ``command &`` in a script, or nohup."""
    caller = callers(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    caller.process.kill()
    caller.wait_for_ranks(2)


def test_an_interrupt_to_the_caller_ends_ranks_in_order(callers: Any) -> None:
    caller = callers("cleaning")
    caller.process.send_signal(signal.SIGINT)
    _, told = caller.process.communicate(timeout=20)
    assert caller.process.returncode == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")
    caller.wait_for_ranks(2)
    assert (caller.folder / "cleaned.0").exists()
    assert (caller.folder / "cleaned.1").exists()


def test_a_second_interrupt_ends_ranks_at_once(callers: Any) -> None:
    caller = callers("noting")
    caller.process.send_signal(signal.SIGINT)
    assert [caller.read("interrupted", rank) for rank in range(2)] == caller.pids
    begun = time.monotonic()
    caller.process.send_signal(signal.SIGINT)
    caller.process.communicate(timeout=20)
    assert time.monotonic() - begun < 2.5  # the grace period of this launch is 3 s
    caller.wait_for_ranks(2)


def test_an_interrupt_that_ranks_ignore_ends_them_after_the_grace_period(callers: Any) -> None:
    caller = callers("stubborn")
    caller.process.send_signal(signal.SIGINT)
    caller.process.communicate(timeout=20)
    assert caller.process.returncode == -signal.SIGINT
    caller.wait_for_ranks(2)


def test_a_thread_that_started_ranks_and_ends_does_not_harm_them(start_method: str) -> None:
    import threading

    made: list[Any] = []
    event = get_context(start_method).Event()

    def launch() -> None:
        made.append(start_processes(wait, (event,), 2, join=False, start_method=start_method))

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert made[0].join(0.3) is False
    event.set()
    assert made[0].join()


def wait(rank: int, event: Any) -> None:
    event.wait()
