"""What calls take beyond torch's arguments, on every start method."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    PerRank,
    ProcessExitedException,
    ProcessRaisedException,
    ProcessTimeoutError,
    RankPlace,
    ResultError,
    get_context,
    run,
    start_processes,
)
from procession.testing.times import patience


def test_results_are_kept_only_if_they_are_asked_for(start_method: str) -> None:
    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    context = start_processes(ranks.give, **arguments)
    with pytest.raises(ResultError, match="collect_results=True"):
        context.results()
    assert context.wait()
    context = start_processes(ranks.give, collect_results=True, **arguments)
    assert context.results() == [(0,), (1,)]
    context = start_processes(give_trouble, **arguments)
    assert context.wait()  # the result would not pickle, but is not asked for
    with start_processes(ranks.work, collect_results=True, **arguments) as context:
        with pytest.raises(TimeoutError, match=r"within 0.05 s"):
            context.results(timeout=0.05)
        assert context.wait(0) is False


class Trouble:
    def __getstate__(self) -> Any:
        raise SystemExit("in __getstate__")


def give_trouble(rank: int) -> Trouble:
    return Trouble()


def test_failures_can_take_the_places_of_results(start_method: str) -> None:
    places = run(
        fail_some, nprocs=4, start_method=start_method, fail_fast=False, return_exceptions=True
    )
    assert places[0] == "fine"
    assert isinstance(places[1], ProcessRaisedException)
    assert "ValueError: no 1" in str(places[1])
    assert isinstance(places[2], ProcessExitedException)
    assert isinstance(places[3], ResultError)
    assert places[3].rank == 3


def fail_some(rank: int) -> Any:
    if rank == 1:
        raise ValueError("no 1")
    if rank == 2:
        sys.exit(3)
    return give_trouble(rank) if rank == 3 else "fine"


def test_the_place_of_a_rank_that_runs_at_the_deadline_has_a_timeout_error(
    start_method: str,
) -> None:
    places = run(
        work_unless_first,
        nprocs=2,
        start_method=start_method,
        timeout=patience(3),
        return_exceptions=True,
    )
    assert places[0] == "done"
    assert isinstance(places[1], ProcessTimeoutError)
    assert "in work" in str(places[1])


def work_unless_first(rank: int) -> str:
    if rank:
        ranks.work(rank)
    return "done"


def test_others_go_on_without_fail_fast_and_all_failures_are_raised_together(
    start_method: str, tmp_path: Path
) -> None:
    events = [get_context(start_method).Event() for _ in range(2)]
    context = start_processes(
        fail_in_turn,
        (events, str(tmp_path / "done")),
        3,
        join=False,
        start_method=start_method,
        fail_fast=False,
    )
    assert context.join() is False  # rank 0 has failed, and the others go on
    assert context.wait(0.05) is False
    events[0].set()
    assert context.join() is False
    events[1].set()
    with pytest.raises(ProcessRaisedException) as caught:
        context.wait()
    assert [one.message for one in caught.value.failures] == ["rank 0", "rank 1"]
    assert not any(one.collateral for one in caught.value.failures)
    assert (tmp_path / "done").exists()


def fail_in_turn(rank: int, events: list[Any], path: str) -> None:
    if rank:
        events[rank - 1].wait()
    if rank < 2:
        raise ValueError(f"rank {rank}")
    Path(path).touch()


def test_ranks_take_keyword_arguments_and_arguments_for_each(start_method: str) -> None:
    arguments: dict[str, Any] = {"nprocs": 2, "start_method": start_method}
    assert run(take, (1,), kwargs={"named": 2}, **arguments) == [(0, 1, 2), (1, 1, 2)]
    assert run(take, PerRank([("a",), ["b"]]), **arguments) == [(0, "a", None), (1, "b", None)]
    by_place = run(take, PerRank(describe), kwargs={"named": 3}, **arguments)
    assert by_place == [(0, "0 of 2", 3), (1, "1 of 2", 3)]


def describe(place: RankPlace) -> tuple[str]:
    assert (place.local_rank, place.local_nprocs) == (place.rank, place.nprocs)
    return (f"{place.rank} of {place.nprocs}",)


def take(rank: int, value: object, named: object = None) -> tuple[object, ...]:
    return rank, value, named


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_the_error_names_the_argument_that_cannot_be_pickled(start_method: str) -> None:
    lock = threading.Lock()
    for keywords, name in (
        ({"args": (1,), "kwargs": {"named": lock}}, "kwargs['named'] (lock)"),
        ({"args": PerRank([(1,), (lock,)])}, "args[0] of rank 1 (lock)"),
    ):
        with pytest.raises(TypeError) as caught:
            start_processes(take, nprocs=2, start_method=start_method, **keywords)
        message = "".join(ranks.notes_on(caught.value)) or str(caught.value)
        assert name in message


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"kwargs": 3}, TypeError, "kwargs must be a mapping"),
        ({"kwargs": {1: 2}}, TypeError, "kwargs must be a mapping"),
        ({"args": PerRank([()])}, ValueError, "arguments of 2 ranks"),
        ({"args": PerRank(["a", 2])}, TypeError, "the value of PerRank for rank 0"),  # type: ignore[list-item]
        ({"name": 3}, TypeError, "name must be a str"),
    ],
)
def test_bad_arguments_are_refused(keywords: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        start_processes(ranks.nothing, nprocs=2, **keywords)


def test_nprocs_none_is_the_number_of_processors(start_method: str) -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(usable)[:2])
        assert len(run(ranks.give, nprocs=None, start_method=start_method)) in (1, 2)
        os.sched_setaffinity(0, [min(usable)])
        assert run(ranks.give, nprocs=None, start_method=start_method) == [(0,)]
    finally:
        os.sched_setaffinity(0, usable)
