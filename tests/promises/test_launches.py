"""A whole launch of each built-in start method: its success, and its failure."""

from __future__ import annotations

import os
from typing import Any

import pytest

import ranks
import standin
from procession import ProcessRaisedException, rank_info, run
from procession.testing.scratch import state_of

METHODS = ("fork", "spawn", "forkserver", "command")


@pytest.fixture(params=METHODS)
def launch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments for `run`: a start method, and its options."""
    monkeypatch.setenv("STANDIN", "")
    options = standin.options() if request.param == "command" else None
    return {"start_method": request.param, "options": options}


def test_all_ranks_return(launch: dict[str, Any]) -> None:
    answers = run(describe, ("argument",), 3, env={"GIVEN": "to ranks"}, **launch)
    pids = [answer.pop("pid") for answer in answers]
    assert answers == [
        {"rank": rank, "argument": "argument", "nprocs": 3, "environment": "to ranks"}
        for rank in range(3)
    ]
    assert len({*pids, os.getpid()}) == 4
    assert all(state_of(pid) == "X" for pid in pids)  # ended, and reaped


def describe(rank: int, argument: str) -> dict[str, Any]:
    info = rank_info()
    assert info is not None
    return {
        "rank": info.rank,
        "argument": argument,
        "nprocs": info.nprocs,
        "environment": os.environ["GIVEN"],
        "pid": os.getpid(),
    }


def test_one_rank_fails_and_the_others_are_stopped(launch: dict[str, Any]) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        run(fail, ("the reason",), 3, **launch)
    root, *others = caught.value.failures
    assert (root.rank, root.kind, root.message) == (1, "raised", "the reason")
    assert "in fail\n" in root.traceback
    assert "\nValueError: the reason\n" in str(caught.value)
    assert sorted((one.rank, one.collateral) for one in others) == [(0, True), (2, True)]
    for one in caught.value.failures:
        assert one.pid is not None
        assert state_of(one.pid) == "X"


def fail(rank: int, reason: str) -> None:
    if rank == 1:
        raise ValueError(reason)
    ranks.work(rank)
