"""What the exceptions say beyond the fault suite (tests/faults), and which failure is the root cause.

Promises: The cause reaches the caller; All failures are reported, the root cause first; Exit codes and
signals have names; Success is explicit.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    Launch,
    ProcessExitedException,
    ProcessRaisedException,
    Started,
    get_context,
    run,
    start_processes,
)
from procession.testing.introspect import SETTLING
from procession.testing.scratch import Stage, is_gone
from through import Through


def test_the_traceback_begins_in_fn(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.fail_in, (0, "ValueError"), 1, start_method=start_method)
    lines = caught.value.msg.splitlines()
    assert "in fail_in" in lines[4]
    assert lines[-1] == "ValueError: boom"


def test_the_exception_has_the_text_of_sys_exit(
    start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.fail_in, (0, "exit text"), 1, start_method=start_method)
    assert caught.value.failures[0].message == "the reason"
    assert "process 0 terminated with exit code 1: the reason" in str(caught.value)
    assert "the reason" in capfd.readouterr().err  # as Python itself prints it


def test_an_exit_code_that_the_kernel_would_cut_to_zero_is_a_failure(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.fail_in, (0, "exit 256"), 1, start_method=start_method)
    assert caught.value.failures[0].message == "256"


def test_an_early_exit_is_a_failure_unless_it_is_allowed(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.fail_in, (0, "_exit 0"), 1, start_method=start_method)
    assert "before its function returned" in caught.value.failures[0].message
    start_processes(
        ranks.fail_in, (0, "_exit 0"), 1, start_method=start_method, allow_early_exit=True
    )


def test_sys_exit_0_and_none_are_success(start_method: str) -> None:
    start_processes(exit_well, (0,), 2, start_method=start_method)
    start_processes(exit_well, (None,), 2, start_method=start_method)


def exit_well(rank: int, code: int | None) -> None:
    sys.exit(code)


def test_after_sigkill_the_exception_says_what_the_oom_counter_did(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.fail_in, (0, "SIGKILL"), 1, start_method=start_method)
    assert "OOM" in caught.value.failures[0].evidence
    assert caught.value.failures[0].evidence in "".join(ranks.notes_on(caught.value))


def test_the_root_cause_is_the_first_to_raise_not_the_first_to_exit(start_method: str) -> None:
    event = get_context(start_method).Event()
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.cascade, (event,), 2, start_method=start_method, grace_period=5)
    failures = caught.value.failures
    assert [one.message for one in failures] == ["the root cause", "secondary"]
    assert [one.collateral for one in failures] == [False, False]


@pytest.mark.parametrize("killer", [9, 11])
def test_a_hard_death_is_the_root_cause_of_what_its_peers_raise(
    start_method: str, killer: int
) -> None:
    pids = get_context(start_method).SimpleQueue()
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.die_in_cascade, (pids, killer), 4, start_method=start_method)
    assert (caught.value.error_index, caught.value.exit_code) == (1, -killer)


def test_all_failures_are_on_the_exception(start_method: str) -> None:
    barrier = get_context(start_method).Barrier(3)
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.all_fail, (barrier,), 3, start_method=start_method, grace_period=5)
    failures = caught.value.failures
    assert sorted(one.message for one in failures) == [f"of rank {rank}" for rank in range(3)]
    assert [one.time for one in failures] == sorted(one.time for one in failures)
    assert not any(one.collateral for one in failures)
    assert "other ranks that failed" in "".join(ranks.notes_on(caught.value))


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])  # fork unpickles nothing
def test_failures_before_fn_reach_the_caller(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="raised while unpickled"):
        start_processes(ranks.give, (ranks.RaisesOnLoad(),), 2, start_method=start_method)


def test_the_exception_object_is_rebuilt_when_asked_for_and_possible(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.fail_in, (0, "ValueError"), 1, start_method=start_method)
    assert caught.value.__cause__ is None
    rebuilt = caught.value.failures[0].load_exception()
    assert (type(rebuilt), str(rebuilt)) == (ValueError, "boom")
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.fail_in, (0, "needs two"), 1, start_method=start_method)
    assert caught.value.failures[0].load_exception() is None


def test_a_broken_stdout_is_a_failure_with_its_cause(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="BrokenPipeError"):
        start_processes(print_into_a_broken_pipe, nprocs=1, start_method=start_method)


def print_into_a_broken_pipe(rank: int) -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    sys.stdout = open(1, "w", closefd=False)
    print("unread")


def test_a_death_after_fn_returned_is_a_failure(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        run(die_at_exit, (), 1, start_method=start_method)
    assert caught.value.exit_code == 5
    assert "after its function had returned" in caught.value.failures[0].message


def die_at_exit(rank: int) -> None:
    atexit.register(os._exit, 5)


def test_a_rank_stopped_after_it_returned_is_not_the_cause(start_method: str) -> None:
    """Its process has not exited yet when it is stopped because another fails."""
    event = get_context(start_method).Event()
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(return_then_linger, (event,), 2, start_method=start_method)
    assert caught.value.error_index == 1
    assert [one.collateral for one in caught.value.failures] == [False, True]


def return_then_linger(rank: int, event: Any) -> None:
    if rank == 0:
        atexit.register(ranks.linger, event)
        return
    event.wait()
    raise ValueError("boom")


def test_the_exception_has_the_exit_code_though_the_exit_hangs(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(exit_and_hang, nprocs=2, start_method=start_method)
    assert (caught.value.exit_code, caught.value.signal_name) == (3, None)


def exit_and_hang(rank: int) -> None:
    atexit.register(time.sleep, 60)
    sys.exit(3)


def test_a_rank_that_aborts_because_a_peer_ended_is_not_the_cause(
    start_method: str, tmp_path: Path
) -> None:
    """Even if its end is seen first: the kernel closes a process's connections before its end is visible."""
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(leave_or_abort, (str(tmp_path),), 2, start_method=start_method)
    assert (caught.value.error_index, caught.value.exit_code) == (0, 7)
    assert [one.signal_name for one in caught.value.failures] == [None, "SIGABRT"]


def leave_or_abort(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)
    if rank == 0:
        peer = int(stage.await_cue("peer"))
        while not is_gone(peer):
            time.sleep(0.001)
        os._exit(7)
    stage.tell("peer", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGABRT)


def test_a_rank_that_was_ending_when_it_was_stopped_is_the_cause(
    start_method: str, tmp_path: Path
) -> None:
    """A peer sees its connections closed, and raises, before its end is visible."""
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(raise_or_end_late, (str(tmp_path),), 2, start_method=start_method)
    assert (caught.value.error_index, caught.value.exit_code) == (1, 7)
    assert [one.collateral for one in caught.value.failures] == [False, False]


def raise_or_end_late(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)
    if rank == 0:
        peer = int(stage.await_cue("peer"))
        while not is_gone(peer):
            time.sleep(0.001)
        raise ConnectionResetError("peer closed the connection")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_once_stopped).start()
    stage.tell("peer", str(os.getpid()))
    ctypes.CDLL(None).pthread_exit(None)  # from here on the kernel calls it a zombie


def end_once_stopped() -> None:
    signal.sigwait({signal.SIGTERM})
    os._exit(7)


class Seen:
    """A process that has ended, which is seen ``after`` seconds; its sentinel; and its channel."""

    host = None

    def __init__(self, code: int, after: float) -> None:
        self._code = code
        self._popen = subprocess.Popen(["sh", "-c", "exit 0"])  # a zombie until `close`
        self.pid = self._popen.pid
        self.sentinel, end = multiprocessing.Pipe(duplex=False)
        self.was_stopped = False
        self._timer = threading.Timer(after, end.close)
        self._timer.start()

    @property
    def exitcode(self) -> int | None:
        return None if self.is_alive() else self._code

    def is_alive(self) -> bool:
        return not self.sentinel.closed and not self.sentinel.poll()

    def join(self, timeout: float | None = None) -> None:
        self.sentinel.poll(timeout)

    def terminate(self) -> None:
        self.was_stopped = True

    kill = terminate

    def fileno(self) -> int:
        return self.sentinel.fileno()

    def receive(self) -> None:
        raise EOFError

    def close(self) -> None:
        self._timer.join()
        self._popen.wait()

    def release(self) -> None:
        self.sentinel.close()


class SeenBackend(Through):
    """A backend of two such processes, of which the first has failed and the second was aborted."""

    def start(self, launch: Launch) -> Started:
        processes = [Seen(7, SETTLING + 0.3), Seen(-signal.SIGABRT, 0)]
        return Started(processes, [one.sentinel for one in processes], processes)


def test_a_rank_that_aborts_is_not_the_cause_while_another_is_ending() -> None:
    """A forkserver that gets no processor time reports that end late."""
    backend = SeenBackend("fork")
    context = start_processes(print, nprocs=2, join=False, start_method=backend)
    with context, pytest.raises(ProcessExitedException) as caught:
        context.wait()
    assert (caught.value.error_index, caught.value.exit_code) == (0, 7)
    ending: Any = context.processes[0]
    assert not ending.was_stopped  # the launch waited for its end first


def test_of_two_deaths_the_first_is_the_cause(start_method: str) -> None:
    """Even if no call waits when they happen, so that both are found at once."""
    context = start_processes(sleep_on, (), 2, join=False, start_method=start_method)
    with context:
        for pid in (context.pids()[1], context.pids()[0]):
            os.kill(pid, signal.SIGKILL)
            while not is_gone(pid):
                time.sleep(0.001)
        with pytest.raises(ProcessExitedException) as caught:
            context.wait()
    assert [one.rank for one in caught.value.failures] == [1, 0]


def sleep_on(rank: int) -> None:
    time.sleep(60)
