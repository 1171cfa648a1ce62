"""Tests how ranks end (every fault of the table, deadlines, stops), and what their caller learns."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest

from procession.exceptions import (
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    ProcessTimeoutError,
)
from procession.testing import ranks
from procession.testing.cases import CASES, RANKS, Case, play
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until
from procession.testing.times import patience

GRACE = 1.0
"""Seconds before SIGKILL in the cases where a rank resists SIGTERM."""

START = 5.0
"""Seconds that an engine may add, on a busy machine, to start the ranks of a case."""


class Outcomes:
    """Tests that the cause reaches the caller soon, and that what failed ranks started is gone."""

    @pytest.mark.parametrize("name", CASES)
    def test_rank_fault(self, subject: Subject, name: str) -> None:
        """The caller gets the error of one case of `procession.testing.cases`, in time."""
        case = CASES[name]
        skip_what_is_not_claimed(case, subject)
        subject.folder.chmod(0o777)
        begun = time.monotonic()
        error = launch(case, name, subject)
        took = time.monotonic() - begun
        assert_told(case, error)
        allowed = case.seconds + GRACE * case.stubborn + START * subject.capabilities.remote
        assert took < patience(allowed)
        assert_gone(subject.stage.noted())

    def test_all_failures_are_told(self, subject: Subject) -> None:
        """The exception lists all failures in the order in which they happened; the first is the cause."""
        error = subject.fail(ranks.raise_in_turn, str(subject.folder), 2, nprocs=3, grace_period=20)
        assert error.error_index == 2
        assert [(one.rank, one.message) for one in error.failures] == [
            (rank, f"of rank {rank}") for rank in (2, 1, 0)
        ]

    def test_the_exception_is_rebuilt_when_it_is_asked_for(self, subject: Subject) -> None:
        """`load_exception` returns the exception that the rank raised."""
        error = subject.fail(ranks.raise_, nprocs=1)
        rebuilt = error.failures[0].load_exception()
        assert isinstance(rebuilt, ValueError)
        assert str(rebuilt) == "of rank 0"

    def test_the_argument_of_sys_exit_is_told(self, subject: Subject) -> None:
        """The failure has the argument of `sys.exit`, whatever exit code it becomes."""
        error = subject.fail(ranks.leave, "the reason", nprocs=1)
        assert isinstance(error, ProcessExitedException)
        assert error.failures[0].message == "the reason"

    def test_an_early_exit_can_be_allowed(self, subject: Subject) -> None:
        """With ``allow_early_exit``, an exit with code 0 before fn returns is no failure."""
        subject.need("exit_codes")
        context = subject.start(ranks.leave_at_once, 0, nprocs=1, allow_early_exit=True)
        assert context.wait()

    def test_a_deadline_stops_all(self, subject: Subject) -> None:
        """The error of a timeout names the ranks that it stopped."""
        error = subject.fail(ranks.work, str(subject.folder), timeout=0.5)
        assert isinstance(error, ProcessTimeoutError)
        assert "stopped rank 0, 1" in str(error)

    def test_a_deadline_shows_stacks(self, subject: Subject) -> None:
        """`dump_stacks` shows the stacks of all ranks."""
        subject.need("stacks")
        with subject.start(ranks.work, str(subject.folder)) as context:
            for rank in range(2):
                subject.await_cue(f"rank {rank}")
            wait_until(
                lambda: all("in work" in text for text in context.dump_stacks().values()),
                "the stacks do not show where ranks are",
            )

    def test_what_ignores_sigterm_is_killed(self, subject: Subject) -> None:
        """SIGKILL ends a rank that ignores SIGTERM, after the grace period."""
        context = subject.start(ranks.ignore_termination, str(subject.folder), nprocs=1)
        subject.await_cue("rank 0")
        context.terminate(0.1)
        assert not context.processes[0].is_alive()

    def test_a_context_that_is_left_stops_its_ranks(self, subject: Subject) -> None:
        """Leaving ``with`` by an exception stops the ranks, and the exception propagates."""
        with (
            pytest.raises(KeyError, match="of the caller"),
            subject.start(ranks.work, str(subject.folder)) as context,
        ):
            raise KeyError("of the caller")
        assert not any(process.is_alive() for process in context.processes)


def skip_what_is_not_claimed(case: Case, subject: Subject) -> None:
    """Skip a case that needs a capability that the backend does not claim, or root."""
    if "root" in case.needs and os.getuid() != 0:
        pytest.skip("needs root, to become the user nobody")
    subject.need(*(need for need in case.needs if need != "root"))
    if case.outcome == "exited":
        subject.need("exit_codes", *(["signals"] if case.signal_name else []))


def launch(case: Case, name: str, subject: Subject) -> ProcessException | None:
    """Play a case; return the exception that its caller gets, or None."""
    keywords = {
        "grace_period": GRACE if case.stubborn else None,
        "timeout": patience(case.seconds + 2 * GRACE),
    }
    try:
        with subject.start(play, name, str(subject.folder), nprocs=RANKS, **keywords) as context:
            context.wait()
    except ProcessException as error:
        return error
    return None


def assert_told(case: Case, error: ProcessException | None) -> None:
    """Fail unless the caller got the error that the case prescribes."""
    if case.outcome == "ok":
        assert error is None
        return
    assert error is not None
    assert error.error_index == 1
    assert len(error.msg) < 64 * 1024
    root, *others = error.failures
    assert (root.rank, root.kind, root.pid) == (1, case.outcome, error.error_pid)
    assert all(other.collateral or other.message == "secondary" for other in others)
    if case.outcome == "raised":
        assert isinstance(error, ProcessRaisedException)
        assert error.msg.startswith("\n\n-- Process 1 terminated with the following error:\n")
        assert case.text in error.msg
    else:
        assert isinstance(error, ProcessExitedException)
        assert (error.exit_code, error.signal_name) == (case.code, case.signal_name)
        ending = f"signal {case.signal_name}" if case.signal_name else f"exit code {case.code}"
        torchs = f"process 1 terminated with {ending}"
        assert error.msg.startswith(torchs)
        assert error.msg[len(torchs) :][:1] in ("", ":", "\n")
        assert case.text in root.message


def assert_gone(pids: list[int]) -> None:
    """Fail if one of these processes still runs after 2 s; a signal takes effect with a delay."""
    for pid in pids:
        wait_until(partial(is_gone, pid), f"still running: {pid}", 2)
