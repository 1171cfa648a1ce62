"""What the facts about the end of one rank amount to, and which signals reach it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from procession._supervise.channel import UnreceivedError
from procession._supervise.rank_state import RankState, _exit_code
from procession.failure import Failure
from procession.protocol import Report

SECOND = 1_000_000_000


class Ended:
    """A process of this pid; it records how it was ended."""

    def __init__(self, exitcode: int | None = None, pid: int = 2**22 + 1) -> None:
        self.pid = pid
        self.exitcode = exitcode
        self.calls: list[object] = []

    def join(self, timeout: float | None = None) -> None:
        self.calls.append(("join", timeout))

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")


class Interruptible(Ended):
    """A process that other signals reach, too."""

    def send_signal(self, number: int) -> None:
        self.calls.append(number)


class Releasable(Ended):
    """A process with something to release."""

    alive = False

    def is_alive(self) -> bool:
        return self.alive

    def release(self) -> None:
        self.calls.append("release")


class Remote(Ended):
    """A process on another host."""

    host = "far"


class Channel:
    """A channel on which one thing comes."""

    left_unread = False

    def __init__(self, item: object = None) -> None:
        self.item = item

    closed = 0

    def close(self) -> None:
        self.closed += 1

    def receive(self) -> Any:
        if isinstance(self.item, BaseException):
            raise self.item
        return self.item


def start_with(process: Any, channel: Any) -> RankState:
    return RankState(3, process, 0, channel)


def make(process: Ended, item: object = None) -> RankState:
    """Return the state of rank 3 after its process has ended, if it has, and what it sent was read."""
    state = start_with(process, Channel(item))
    more = state.take_report()
    assert more == (item is None)
    if process.exitcode is not None:
        state.note_end()
    return state


def failure(state: RankState, *, allow_early_exit: bool = False) -> Failure:
    found = state.failure(allow_early_exit)
    assert found is not None
    assert (found.rank, found.pid) == (3, state.process.pid)
    return found


def test_a_rank_that_runs_or_returned_has_not_failed() -> None:
    assert make(Ended()).failure(False) is None
    assert make(Ended(), Report("returned")).failure(False) is None
    assert make(Ended(0), Report("returned")).failure(False) is None


def test_what_a_rank_raised_is_its_failure_while_it_still_ends() -> None:
    report = Report("raised", 7, "E", "why", "the traceback", None, b"pickle")
    for process in (Ended(), Ended(0), Ended(1)):
        found = failure(make(process, report))
        assert (found.kind, found.time, found.reported) == ("raised", 7, True)
        assert (found.type_name, found.message, found.traceback) == ("E", "why", "the traceback")
        assert (found.pickled, found.exit_code) == (b"pickle", process.exitcode)
    state = make(Ended(1), Report("raised"))
    assert failure(state).time == state.reported > 0


def test_an_exit_has_the_code_of_the_process_or_else_of_the_report() -> None:
    assert failure(make(Ended(), Report("exited", 7, text="3"))).exit_code == 3
    found = failure(make(Ended(4), Report("exited", 7, text="3")))
    assert (found.exit_code, found.time, found.message, found.reported) == (4, 7, "3", True)
    assert failure(make(Ended(3), Report("exited", 7, text="3"))).message == ""
    assert failure(make(Ended(1), Report("exited", 7, text="bad"))).message == "bad"
    codes = {"0": 1, "1": 1, "255": 255, "256": 1, "257": 1, "-1": 255, "words": 1}
    for text, code in codes.items():
        for exitcode in (None, 0, -15):
            assert _exit_code(exitcode, Report("exited", text=text)) == code
    assert _exit_code(9, Report("exited", text="3")) == 9


def test_an_end_without_a_report_is_a_failure() -> None:
    state = make(Ended(-9))
    found = failure(state)
    assert (found.kind, found.exit_code, found.signal_name) == ("exited", -9, "SIGKILL")
    assert (found.time, found.message, found.reported) == (state.ended, "", False)
    assert failure(make(Ended(-1))).signal_name == "SIGHUP"
    assert failure(make(Ended(5))).signal_name is None
    assert failure(make(Ended(5), Report("returned"))).message.startswith("after its function")
    early = make(Ended(0))
    found = failure(early)
    assert (found.exit_code, found.signal_name) == (0, None)
    assert found.message.startswith("before its function returned")
    assert early.failure(True) is None


def test_a_process_that_read_nothing_is_no_rank() -> None:
    state = make(Ended(0))
    state.channel.left_unread = True  # type: ignore[attr-defined]
    for allowed in (False, True):
        found = failure(state, allow_early_exit=allowed)
        assert found.message.startswith("before it read what it was to run; ")
    state.exitcode = -1
    assert failure(state).message == ""


def test_a_rank_whose_end_nobody_saw_is_lost() -> None:
    state = make(Ended())
    state.note_end()
    found = failure(state)
    assert (found.kind, found.time) == ("lost", state.ended)
    assert found.message.startswith("other code in the caller collected its exit status")
    process: Any = Ended(0)
    process.lost = "its host is gone"
    state = make(process, Report("returned"))
    assert process.calls == [("join", 1)]
    assert failure(state).message == "its host is gone"
    state.abandon("no signal ends it")
    assert failure(state).message == "no signal ends it"


def test_what_cannot_be_read_fails_its_rank() -> None:
    state = make(Ended(0), ValueError("odd"))
    found = failure(state)
    assert (found.kind, found.time, found.exit_code) == ("lost", state.reported, 0)
    assert found.message == "what it sent cannot be read: ValueError: odd"
    assert not found.collateral
    state.stopped = state.reported - 1
    assert failure(state).collateral
    state.stopped = state.reported
    assert not failure(state).collateral
    state = start_with(Ended(), Channel(EOFError()))
    assert not state.take_report()
    assert (state.report, state.reported) == (None, 0)


def test_a_rank_is_collateral_if_it_ended_because_we_stopped_it() -> None:
    term, kill = -signal.SIGTERM, -signal.SIGKILL
    for exitcode, after, ending, collateral in (
        (term, 1, False, True),
        (term, -1, True, True),
        (kill, 1, False, False),
        (kill, SECOND + 1, False, True),
        (kill, SECOND, False, False),
        (kill, SECOND + 1, True, False),
        (0, 1, False, True),
        (1, 1, False, True),
        (1, 0, False, False),
        (1, 1, True, False),
    ):
        state: Any = make(Ended(exitcode))
        assert not failure(state).collateral
        state.stop(signal.SIGTERM)
        state._was_ending, state.stopped = ending, state.ended - after
        assert failure(state).collateral == collateral, (exitcode, after, ending)
    # an exception after the signal is collateral, whatever ends the process
    state = make(Ended(-signal.SIGKILL), Report("raised", 5 * SECOND))
    state.stop(signal.SIGTERM)
    for stopped, collateral in ((5 * SECOND - 1, True), (5 * SECOND, False)):
        state.stopped = stopped
        assert failure(state).collateral == collateral


def test_a_process_is_released_once_it_has_ended() -> None:
    state: Any = make(Releasable())
    state.release()
    assert state.process.calls == []
    state.abandon("no signal ends it")
    state.process.alive = True
    state.release()
    assert state.process.calls == []
    state.process.alive = False
    state.release()
    state.release()
    assert state.process.calls == ["release"]
    assert state.channel.closed == 0
    make(Ended(0)).release()


def test_a_result_that_no_descriptor_was_free_for_is_received_at_the_release() -> None:
    process = Releasable()
    state: Any = make(process, UnreceivedError(errno.EMFILE, 7))
    assert state.report.time == 7
    state.close()
    assert state.channel.closed == 0
    state.channel.item = Report("returned")
    state.ended = 1
    state.release()
    assert (state.report.kind, state.channel.closed) == ("returned", 1)
    state = make(Ended(0), Report("returned"))
    state.close()
    assert state.channel.closed == 1


def test_signals_take_the_way_that_a_process_offers() -> None:
    numbers = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL)
    for kind, calls in (
        (Ended, ["terminate", "kill", "terminate", "kill"]),
        (Interruptible, [signal.SIGINT, signal.SIGUSR1, "terminate", "kill"]),
    ):
        state = make(kind())
        before = time.monotonic_ns()
        for number in numbers:
            state.stop(number)
        assert state.process.calls == calls  # type: ignore[attr-defined]
        assert before <= state.stopped <= time.monotonic_ns()
        first = state.stopped
        state.stop(signal.SIGKILL)
        assert state.stopped == first
    assert make(Ended()).sent == frozenset()
    assert state.sent == frozenset(numbers)


HANDLES = "signal.signal(signal.SIGTERM, print); signal.signal(signal.SIGUSR2, print)"
BLOCKS = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"


def start(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code in another process, and wait for its end of input."""
    code = f"import signal, sys; {code}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_it_sees_which_signals_a_local_rank_handles_and_blocks() -> None:
    for code, heeds in ((HANDLES, True), (f"{HANDLES}; {BLOCKS}", False), ("pass", False)):
        for process in start(code):
            state = make(Interruptible(pid=process.pid))
            assert state.catches(signal.SIGTERM) == (code != "pass")
            assert state.catches(signal.SIGUSR2) == (code != "pass")
            assert not state.catches(signal.SIGUSR1)
            assert state.heeds_termination() == heeds
            assert not make(Ended(pid=process.pid)).catches(signal.SIGUSR2)
    state = make(Remote(pid=os.getpid()))
    assert state.is_remote
    assert not make(Ended()).is_remote
    assert not state.catches(signal.SIGINT)
    assert state.heeds_termination()
    assert failure(make(Remote(1))).host == "far"
