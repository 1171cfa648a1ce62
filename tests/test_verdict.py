"""Which failure is the root cause, and how the exception tells it."""

from __future__ import annotations

import sys

import pytest

import ranks
from procession import Failure, ProcessExitedException
from procession.verdict import make_exception, sort_failures


def raised(rank: int, time: int, **more: bool) -> Failure:
    return Failure(rank, "raised", pid=rank, type_name="E", traceback="T\n", time=time, **more)  # type: ignore[arg-type]


def died(rank: int, time: int, name: str, **more: bool) -> Failure:
    return Failure(rank, "exited", pid=rank, exit_code=-1, signal_name=name, time=time, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "order"),
    [
        ([raised(0, 2), raised(1, 1)], [1, 0]),
        ([raised(0, 1), died(1, 2, "SIGKILL")], [1, 0]),
        ([died(0, 1, "SIGABRT"), raised(1, 2)], [1, 0]),
        ([died(0, 1, "SIGABRT"), died(1, 2, "SIGSEGV"), raised(2, 0)], [1, 2, 0]),
        ([died(0, 1, "SIGTERM", collateral=True), raised(1, 2)], [1, 0]),
        ([Failure(0, "lost", time=5), raised(1, 2)], [0, 1]),
        ([], []),
    ],
)
def test_order(failures: list[Failure], order: list[int]) -> None:
    assert [one.rank for one in sort_failures(failures)] == order


def test_lines_say_what_became_of_a_rank() -> None:
    assert str(Failure(1, "raised", 7, type_name="E", message="m")) == "rank 1 (pid 7) raised E: m"
    assert str(died(2, 0, "SIGKILL")) == "rank 2 (pid 2) was ended by SIGKILL"
    assert str(Failure(3, "exited", 7, "far", 4)) == "rank 3 (pid 7 on far) exited with code 4"
    assert "was lost" in str(Failure(4, "lost", 7))
    assert str(Failure(1, "raised", 7, type_name="E", evidence="why")).endswith("; why")


def test_what_torch_does_not_tell_is_in_the_notes_and_shown() -> None:
    error = make_exception(
        [died(1, 1, "SIGKILL"), raised(0, 2), died(2, 3, "SIGTERM", collateral=True)]
    )
    assert isinstance(error, ProcessExitedException)
    assert error.msg == "process 1 terminated with signal SIGKILL"
    assert ranks.notes_on(error) == [
        "other ranks that failed:\n  rank 0 (pid 0) E",
        "stopped by the launcher, in consequence: rank 2",
    ]
    if sys.version_info < (3, 11):
        assert "other ranks that failed" in str(error)
        assert str(error).endswith(error.msg)
    else:
        assert str(error) == error.msg
