"""Which signals a stop sends to which ranks, and when; the clock is the test's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from procession._rank.life import EXIT_BOUND
from procession._supervise import stopping
from procession._supervise.stopping import KILL_WAIT, Stop
from procession.protocol import Report

INT, TERM, KILL, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP
LATER = 2 * EXIT_BOUND
Clock = Callable[[float], None]


class Rank:
    """A rank that no signal ends by itself; it heeds SIGTERM, and handles some signals."""

    def __init__(self, *handled: int, heeds: bool = True, report: str = "") -> None:
        self.got: list[int] = []
        self.handled, self.heeds = handled, heeds
        self.report = Report(report) if report else None
        self.ended = 0
        self.lost = ""
        self.process = SimpleNamespace(pid=2**22 + 1, is_alive=lambda: not self.ended)

    @property
    def sent(self) -> frozenset[int]:
        return frozenset(self.got)

    def stop(self, number: int) -> None:
        self.got.append(number)

    def catches(self, number: int) -> bool:
        return number in self.handled

    def heeds_termination(self) -> bool:
        return self.heeds

    def abandon(self, why: str) -> None:
        self.ended, self.lost = 1, why


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopping, "monotonic", lambda: clock.now)
    return lambda seconds: setattr(clock, "now", 100 + seconds)


def plan(ranks: list[Rank], wait: float, grace: float, **more: Any) -> Stop:
    return Stop(ranks, wait, grace, **more)  # type: ignore[arg-type]


def follow(stop: Stop, at: Clock) -> list[float]:
    """Carry out a plan, each stage when it is due; return the times."""
    times = []
    while (due := stop.deadline) < float("inf"):
        times.append(round(due - 100, 6))
        at(due - 100)
        assert stop.advance()
    return times


def test_sigterm_comes_after_the_wait_and_sigkill_after_the_grace_period(at: Clock) -> None:
    rank = Rank(HUP)
    stop = plan([rank], 2, 5)
    at(1.999)
    stop.advance()
    assert rank.got == []
    assert follow(stop, at) == [2, 2 + LATER, 7, 7 + KILL_WAIT]
    assert rank.got == [TERM, KILL]
    assert "could not be killed; its state is " in rank.lost
    abandoned: list[Any] = stop.take_abandoned()
    assert abandoned == [rank]
    assert stop.take_abandoned() == []


def test_the_grace_periods_are_those_of_the_documentation() -> None:
    assert (stopping.DEFAULT_GRACE, stopping.CATCHING_GRACE, stopping.ENDING_GRACE) == (5, 30, 25)


def test_stages_that_are_due_at_once_happen_in_order(at: Clock) -> None:
    rank = Rank()
    stop = plan([rank], 1, 0, interrupt=True)
    at(30)
    stop.advance()
    assert rank.got == [INT, TERM, KILL]
    assert stop.deadline == float("inf")


def test_ranks_that_handle_sigterm_may_take_longer(at: Clock) -> None:
    deaf, good = Rank(heeds=False), Rank()
    times = follow(plan([deaf, good], 0, 5, catching_grace=30), at)
    assert times == [0, LATER, 5, 30, 30 + KILL_WAIT]
    assert (deaf.got[:2], good.got) == ([TERM, KILL], [TERM, KILL])
    at(0)
    deaf, good = Rank(heeds=False), Rank()
    stop = plan([deaf, good], 0, 5, catching_grace=30)
    at(5)
    stop.advance()
    assert (deaf.got, good.got) == ([TERM, KILL], [TERM])
    at(0)
    assert follow(plan([Rank()], 0, 5, catching_grace=5), at) == [0, LATER, 5, 5 + KILL_WAIT]


def test_a_rank_that_reported_a_failure_has_a_moment_to_end_by_itself(at: Clock) -> None:
    ranks = [Rank(report="raised"), Rank(report="exited"), Rank(report="returned"), Rank()]
    stop = plan(ranks, 0, 5)
    stop.advance()
    assert [rank.got for rank in ranks] == [[], [], [TERM], [TERM]]
    at(LATER)
    stop.advance()
    assert [rank.got for rank in ranks] == [[TERM]] * 4


def test_ranks_that_have_ended_get_no_signal(at: Clock) -> None:
    noted, unnoted = Rank(), Rank()
    noted.ended = 1
    unnoted.process.is_alive = lambda: False
    stop = plan([noted, unnoted], 0, 5)
    at(6)
    stop.advance()
    assert (noted.got, unnoted.got) == ([], [])


def test_a_rank_gets_the_callers_signal_if_it_handles_that(at: Clock) -> None:
    ranks = [Rank(HUP), Rank(TERM), Rank()]
    stop = plan(ranks, 0, 5, by=HUP)
    at(LATER)
    stop.advance()
    assert [rank.got for rank in ranks] == [[HUP], [TERM], [TERM]]


def test_a_second_stop_brings_stages_forward_and_delays_none(at: Clock) -> None:
    rank = Rank()
    stop = plan([rank], 10, 30)
    stop.hasten(plan([rank], 0, 60))
    assert follow(stop, at) == [0, LATER, 40, 40 + KILL_WAIT]
    at(0)
    rank = Rank()
    stop = plan([rank], 10, 30)
    stop.hasten(plan([rank], 20, 30, interrupt=True))
    stop.advance()
    assert rank.got == [INT]
    stop.hasten(plan([rank], 20, 30, interrupt=True))
    stop.advance()
    assert rank.got == [INT]


def test_it_can_skip_to_sigkill(at: Clock) -> None:
    rank = Rank()
    stop = plan([rank], 10, 30)
    at(3)
    stop.hurry()
    assert rank.got == [KILL]
    assert stop.deadline == 103 + KILL_WAIT


def test_a_stage_that_raised_is_due_again(at: Clock) -> None:
    rank = Rank()

    def interrupted(number: int) -> None:
        del rank.stop
        raise KeyboardInterrupt

    rank.stop = interrupted  # type: ignore[method-assign]
    stop = plan([rank], 0, 5)
    with pytest.raises(KeyboardInterrupt):
        stop.advance()
    assert stop.deadline == 100
    stop.advance(blocking=False)
    assert rank.got == [TERM]


def test_one_thread_at_a_time_carries_out_a_plan(at: Clock) -> None:
    rank = Rank()
    begun, end = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        begun.set()
        end.wait(20)
        rank.got.append(number)

    rank.stop = wait  # type: ignore[method-assign]
    stop = plan([rank], 0, 5)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(stop.advance())) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    assert not stop.advance(blocking=False)
    threads[1].start()
    threads[1].join(0.2)
    assert answers == []
    end.set()
    for thread in threads:
        thread.join()
    assert (answers, rank.got) == ([True, True], [TERM])
