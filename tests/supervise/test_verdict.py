"""Which failure is the root cause, and what the exception says of it."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

import ranks
from procession import (
    Failure,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    get_context,
    start_processes,
)
from procession._supervise.verdict import sort_failures
from procession.exceptions import make_exception


def raised(rank: int, time: int, **more: bool) -> Failure:
    return Failure(rank, "raised", pid=rank, type_name="E", traceback="T\n", time=time, **more)  # type: ignore[arg-type]


def died(rank: int, time: int, name: str, **more: bool) -> Failure:
    return Failure(rank, "exited", pid=rank, exit_code=-1, signal_name=name, time=time, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "order"),
    [
        ([raised(0, 2), raised(1, 1)], [1, 0]),
        ([raised(0, 1), died(1, 2, "SIGKILL")], [1, 0]),
        ([Failure(0, "exited", exit_code=3, time=2, reported=True), raised(1, 1)], [1, 0]),
        ([Failure(0, "exited", exit_code=3, time=2), raised(1, 1)], [0, 1]),
        ([died(0, 1, "SIGABRT"), raised(1, 2)], [1, 0]),
        ([died(0, 1, "SIGABRT"), died(1, 2, "SIGSEGV"), raised(2, 0)], [1, 2, 0]),
        ([died(0, 1, "SIGTERM", collateral=True), raised(1, 2)], [1, 0]),
        ([Failure(0, "lost", time=5), raised(1, 2)], [0, 1]),
        ([raised(2, 1), raised(1, 1), raised(0, 3)], [2, 1, 0]),
    ],
)
def test_the_root_cause_comes_first(failures: list[Failure], order: list[int]) -> None:
    assert [one.rank for one in sort_failures(failures)] == order


def test_a_failure_says_what_became_of_its_rank() -> None:
    assert str(Failure(1, "raised", 7, type_name="E", message="m")) == "rank 1 (pid 7) raised E: m"
    assert str(died(2, 0, "SIGKILL")) == "rank 2 (pid 2) was ended by SIGKILL"
    assert str(Failure(3, "exited", 7, "far", 4)) == "rank 3 (pid 7 on far) exited with code 4"
    assert "was lost" in str(Failure(4, "lost", 7))
    assert str(Failure(1, "raised", 7, type_name="E", evidence="why")).endswith("; why")


def fail(rank: int) -> None:
    if rank == 0:
        raise KeyError("of rank 0")
    if rank == 1:
        sys.exit(3)
    time.sleep(60)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_has_one_exception_a_failed_rank(start_method: str) -> None:
    barrier = get_context(start_method).Barrier(2)
    with pytest.raises(ProcessException) as caught:
        start_processes(meet_and_fail, (barrier,), 3, start_method=start_method, grace_period=2)
    group: Any = caught.value.as_group()
    assert type(group).__name__ == "ExceptionGroup"
    by_rank = {one.error_index: one for one in group.exceptions}
    assert sorted(by_rank) == [0, 1]  # rank 2 was stopped
    assert isinstance(by_rank[0], ProcessRaisedException)
    assert isinstance(by_rank[1], ProcessExitedException)
    assert by_rank[1].exit_code == 3
    assert by_rank[0].msg.endswith("KeyError: 'of rank 0'\n")
    assert group.exceptions[0].error_index == caught.value.error_index  # the root cause first
    loaded = caught.value.as_group(load=True)
    (own,) = [one for one in loaded.exceptions if isinstance(one, KeyError)]
    assert own.args == ("of rank 0",)
    assert "raised in rank 0" in "".join(own.__notes__)  # type: ignore[attr-defined, unused-ignore]


def meet_and_fail(rank: int, barrier: Any) -> None:
    if rank < 2:
        barrier.wait()
    fail(rank)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_with_a_keyboard_interrupt_is_a_base_group(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(interrupt, start_method=start_method)
    assert type(caught.value.as_group()).__name__ == "ExceptionGroup"
    assert type(caught.value.as_group(load=True)).__name__ == "BaseExceptionGroup"


def interrupt(rank: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_without_failures_has_the_exception_itself() -> None:
    error = ProcessException("text", 0, 1)
    assert error.as_group().exceptions == (error,)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_of_ranks_that_were_only_stopped_has_these() -> None:
    stopped = make_exception([died(1, 1, "SIGTERM", collateral=True)])
    (own,) = stopped.as_group().exceptions
    assert isinstance(own, ProcessExitedException)
    assert (own.error_index, own.signal_name) == (1, "SIGTERM")


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="from Python 3.11 on there are groups")
def test_without_exception_groups_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "exceptiongroup", None)
    with pytest.raises(RuntimeError, match="pip install exceptiongroup"):
        ProcessException("text", 0, 1).as_group()


def test_what_torch_does_not_say_is_in_the_notes() -> None:
    error = make_exception(
        [died(1, 1, "SIGKILL"), raised(0, 2), died(2, 3, "SIGTERM", collateral=True)]
    )
    assert isinstance(error, ProcessExitedException)
    assert error.msg == "process 1 terminated with signal SIGKILL"
    assert ranks.notes_on(error) == [
        "other ranks that failed:\n  rank 0 (pid 0) E",
        "then stopped: rank 2",
    ]
    if sys.version_info < (3, 11):
        assert "other ranks that failed" in str(error)
        assert str(error).endswith("\n" + error.msg)
    else:
        assert str(error) == error.msg
