"""P16: what callers of torch.multiprocessing.start_processes rely on, on every start method."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest

import procession
import ranks
from procession import (
    LaunchOptions,
    PerRank,
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    RankPlace,
    ResultError,
    SpawnContext,
    get_context,
    run,
    start_processes,
)
from procession.checks import KEYWORDS
from procession.own_processes import ErrorFile
from procession.platform import count_processors
from procession.testing.stage import Stage


def test_signature_is_torchs_and_then_some() -> None:
    parameters = inspect.signature(start_processes).parameters
    positional = [one for one in parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert [(one.name, one.default) for one in positional[1:]] == [
        ("args", ()),
        ("nprocs", 1),
        ("join", True),
        ("daemon", False),
        ("start_method", "spawn"),
    ]
    assert positional[0].name == "fn"
    assert [one.name for one in parameters.values() if one.kind is one.VAR_KEYWORD] == ["launch"]
    assert set(LaunchOptions.__annotations__) == set(KEYWORDS)
    spawned = [
        (one.name, one.default) for one in inspect.signature(procession.spawn).parameters.values()
    ]
    assert spawned[1:] == [(one.name, one.default) for one in positional[1:]]


def test_joined_call_returns_none(start_method: str) -> None:
    assert start_processes(ranks.nothing, nprocs=2, start_method=start_method) is None


def test_first_argument_is_the_rank_and_queues_fit(start_method: str) -> None:
    queue = get_context(start_method).SimpleQueue()
    start_processes(ranks.put, args=(queue,), nprocs=3, start_method=start_method)
    assert sorted(queue.get() for _ in range(3)) == [0, 1, 2]
    queue.close()


def test_args_may_be_a_list(start_method: str) -> None:
    start_processes(ranks.give, args=[1, 2], nprocs=1, start_method=start_method)


def test_context_has_torchs_attributes(start_method: str) -> None:
    context = start_processes(ranks.work, (), 2, False, False, start_method)
    with context:
        assert isinstance(context, ProcessContext)
        assert context.pids() == [process.pid for process in context.processes]
        assert list(context.sentinels.values()) == [0, 1]
        assert context.join(-1) is False
        assert context.join(0.05) is False
        for process in context.processes:
            assert process.is_alive()
            assert process.exitcode is None
            process.join(0.01)
            assert process.is_alive()
    assert [process.exitcode for process in context.processes] == [-signal.SIGTERM] * 2
    assert context.sentinels == {}


def test_wait_after_success_stays_true(start_method: str) -> None:
    context = start_processes(ranks.nothing, nprocs=2, join=False, start_method=start_method)
    assert [context.wait() for _ in range(3)] == [True] * 3
    assert [context.join() for _ in range(3)] == [True] * 3
    assert [process.exitcode for process in context.processes] == [0, 0]


def test_poll_until_the_end(start_method: str) -> None:
    context = start_processes(ranks.nothing, nprocs=2, join=False, start_method=start_method)
    while not context.join(-1):
        pass
    assert context.join(-1)


def test_join_returns_when_a_rank_has_ended_and_wait_when_all_have(start_method: str) -> None:
    events = [get_context(start_method).Event() for _ in range(3)]
    arguments: dict[str, Any] = {"nprocs": 3, "join": False, "start_method": start_method}
    context = start_processes(wait_for_own, (events,), **arguments)
    left = [0, 1, 2]
    for rank in (1, 2):
        events[rank].set()
        assert context.join() is False
        left.remove(rank)
        assert list(context.sentinels.values()) == left
        assert context.processes[rank].exitcode == 0
    assert context.join(0.05) is False
    assert context.wait(0.05) is False
    events[0].set()
    assert context.wait() is True
    assert context.sentinels == {}


def wait_for_own(rank: int, events: list[Any]) -> None:
    events[rank].wait()


def test_a_caller_may_wait_for_sentinels_itself(start_method: str) -> None:
    context = start_processes(ranks.nothing, nprocs=2, join=False, start_method=start_method)
    ended = []
    while context.sentinels:
        for sentinel in multiprocessing.connection.wait(list(context.sentinels), timeout=30):
            rank = context.sentinels.pop(sentinel)
            context.processes[rank].join()
            ended.append((rank, context.processes[rank].exitcode))
    assert sorted(ended) == [(0, 0), (1, 0)]
    assert context.join() is True
    assert context.wait() is True


def test_what_a_caller_pops_is_joins_affair_alone(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    context.sentinels.clear()
    assert context.join() is True  # torch's: nothing is left to join
    assert context.wait(0.05) is False
    context.processes[1].terminate()
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGTERM"):
        context.wait()


def test_results_are_kept_only_if_they_are_asked_for(start_method: str) -> None:
    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    context = start_processes(ranks.give, **arguments)
    with pytest.raises(ResultError, match="collect_results=True"):
        context.results()
    assert context.wait()
    context = start_processes(ranks.give, collect_results=True, **arguments)
    assert context.results() == [(0,), (1,)]
    context = start_processes(give_trouble, **arguments)
    assert context.wait()  # nobody looks at what it returned
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


def test_keyword_arguments_and_arguments_of_each_rank(start_method: str) -> None:
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


@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"kwargs": 3}, TypeError, "kwargs must be a mapping"),
        ({"kwargs": {1: 2}}, TypeError, "kwargs must be a mapping"),
        ({"args": PerRank([()])}, ValueError, "arguments of 2 ranks"),
        ({"args": PerRank(["a", 2])}, TypeError, "what PerRank has for rank 0"),  # type: ignore[list-item]
        ({"name": 3}, TypeError, "name must be a str"),
    ],
)
def test_bad_arguments_are_refused(keywords: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        start_processes(ranks.nothing, nprocs=2, **keywords)


def test_nprocs_none_is_the_number_of_processors(start_method: str) -> None:
    usable = os.sched_getaffinity(0)
    assert 1 <= count_processors() <= len(usable)
    os.sched_setaffinity(0, [min(usable)])
    try:
        assert run(ranks.give, nprocs=None, start_method=start_method) == [(0,)]
    finally:
        os.sched_setaffinity(0, usable)


def test_processes_can_be_signalled_one_by_one(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    context.processes[1].terminate()
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGTERM"):
        context.wait()


def test_stopping_logs_torchs_warning_first(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    context = start_processes(
        ranks.fail_in, (1, "exit 3"), 2, join=False, start_method=start_method
    )
    pid = context.pids()[0]
    with pytest.raises(ProcessExitedException):
        context.wait()
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warned[0].getMessage() == f"Terminating process {pid} via signal SIGTERM"
    assert len(warned) == 1


def test_no_warning_if_all_end_within_the_grace_period(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    event = get_context(start_method).Event()
    context = start_processes(leave_when_told, (event,), 2, join=False, start_method=start_method)
    with pytest.raises(ProcessRaisedException):
        context.wait(grace_period=20)
    assert caplog.records == []
    assert sorted(process.exitcode or 0 for process in context.processes) == [0, 1]


def leave_when_told(rank: int, event: Any) -> None:
    if rank == 0:
        event.wait()
        return
    event.set()
    raise ValueError("boom")


def test_kill_logs_torchs_warning(start_method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    pid = context.pids()[0]
    with pytest.raises(ProcessRaisedException):
        context.wait(grace_period=0.1)
    assert [record.getMessage() for record in caplog.records] == [
        f"Terminating process {pid} via signal SIGTERM",
        f"Unable to shutdown process {pid} via SIGTERM , forcefully exiting via SIGKILL",
    ]


def test_exceptions_take_torchs_arguments_and_survive_pickle(start_method: str) -> None:
    raised = ProcessRaisedException("text", 1, 2)
    assert (raised.msg, raised.error_index, raised.error_pid) == ("text", 1, 2)
    exited = ProcessExitedException(
        "text", error_index=1, error_pid=2, exit_code=-9, signal_name="SIGKILL"
    )
    assert (exited.exit_code, exited.signal_name) == (-9, "SIGKILL")
    for fault in ("ValueError", "exit 3", "SIGKILL"):
        with pytest.raises(ProcessException) as caught:
            start_processes(ranks.fail_in, (0, fault), 1, start_method=start_method)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy) is type(caught.value)
        assert (str(copy), copy.__dict__) == (str(caught.value), caught.value.__dict__)


def test_message_ends_with_the_traceback(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.fail_in, (0, "ValueError"), 2, start_method=start_method)
    assert re.search(r"\nValueError: boom$", str(caught.value))


def test_spawn_warns_of_another_method_and_spawns() -> None:
    with pytest.warns(FutureWarning, match=r"only supports start_method=spawn \(got: fork\)"):
        context = procession.spawn(ranks.nothing, nprocs=1, join=False, start_method="fork")
    assert context is not None
    assert context.wait()
    assert "Spawn" in repr(context.processes[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        procession.spawn(ranks.nothing)


@pytest.mark.parametrize("how", ["well", "raises", "exits", "killed"])
@pytest.mark.parametrize("kind", ["ProcessContext", "SpawnContext", "a subclass"])
def test_a_context_of_processes_that_the_caller_has_started(
    tmp_path: Path, kind: str, how: str
) -> None:
    """As torch's: with a file for each, into which its `_wrap` pickles the traceback."""

    class Mine(ProcessContext):
        def __init__(self, processes: Any, error_files: Any) -> None:
            super().__init__(processes, error_files)
            self.mine = True

    files = [str(tmp_path / str(rank)) for rank in range(2)]
    mp_context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        processes = [
            mp_context.Process(target=act_like_torchs, args=(rank, how, files[rank]))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        made = {"ProcessContext": ProcessContext, "SpawnContext": SpawnContext}.get(kind, Mine)
        context = made(processes, files)
    assert context.pids() == [process.pid for process in processes]
    assert list(context.processes) == processes
    if how == "well":
        assert context.wait()
        return
    expected = ProcessRaisedException if how == "raises" else ProcessExitedException
    with pytest.raises(expected) as caught:
        join_all(context)
    assert caught.value.error_index == 1
    told = {"raises": "ValueError: boom", "exits": "exit code 3", "killed": "SIGKILL"}[how]
    assert told in str(caught.value)
    assert processes[0].exitcode == -signal.SIGTERM


def join_all(context: ProcessContext) -> None:
    while not context.join():
        pass


def act_like_torchs(rank: int, how: str, path: str) -> None:
    if how == "well":
        return
    if rank == 0:
        ranks.work(rank)
    if how == "exits":
        sys.exit(3)
    if how == "killed":
        ranks.kill_self(signal.SIGKILL)
    try:
        raise ValueError("boom")
    except ValueError:
        with open(path, "wb") as file:
            pickle.dump(traceback.format_exc(), file)
        sys.exit(1)


def test_an_error_file_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "error"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EOFError):
        ErrorFile(path).receive()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (([object()], ["path"]), TypeError, r"processes\[0\] has no pid, sentinel"),
        (([], ["path"]), ValueError, "0 processes, and 1 error_files"),
    ],
)
def test_bad_processes_are_refused(arguments: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        ProcessContext(*arguments)


def test_a_rank_that_saves_on_sigterm_has_more_time_than_one_that_ignores_it(
    start_method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """torch gives 30 s to all; here those that ignore SIGTERM are killed after 5."""
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(save_slowly, (str(tmp_path),), 3, start_method=start_method)
    assert (tmp_path / "saved 1").exists()
    assert time.monotonic() - begun >= 6
    names = {one.rank: one.signal_name for one in caught.value.failures}
    assert names[2] == "SIGKILL"


def save_slowly(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)

    def save(*_: object) -> None:
        time.sleep(6)
        stage.tell(f"saved {rank}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, save if rank == 1 else signal.SIG_IGN)
    stage.tell(f"ready {rank}")
    if rank == 0:
        stage.await_cue("ready 1")
        stage.await_cue("ready 2")
        raise ValueError("boom")
    while True:
        time.sleep(0.1)


def test_none_is_multiprocessings_default(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.delenv("PROCESSION_START_METHOD", raising=False)
    expected = multiprocessing.get_context(None).get_start_method()
    context = start_processes(ranks.nothing, join=False, start_method=None)
    assert context.wait()
    assert f" {expected} " in repr(context)
    monkeypatch.setenv("PROCESSION_START_METHOD", "spawn")
    context = start_processes(ranks.nothing, join=False, start_method=None)
    assert context.wait()
    assert " spawn " in repr(context)


def test_nested_launches_and_daemons(start_method: str) -> None:
    results = procession.run(ranks.nested, (start_method,), 2, start_method=start_method)
    assert results == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]
    with pytest.raises(ProcessRaisedException, match="daemonic processes are not allowed"):
        start_processes(ranks.start_from_daemon, daemon=True, start_method=start_method)


def test_call_of_torch_elastic(start_method: str) -> None:
    """Keyword call with join=False, then polls, as torch.distributed.elastic makes them."""
    context = start_processes(
        fn=ranks.give,
        args=("entrypoint", {0: (1,)}),
        nprocs=2,
        start_method=start_method,
        join=False,
        daemon=False,
    )
    while not context.join(-1):
        assert all(isinstance(pid, int) for pid in context.pids())
    assert not any(process.is_alive() for process in context.processes)


def test_public_names_exist_and_are_listed_once() -> None:
    assert len(set(procession.__all__)) == len(procession.__all__)
    assert set(procession.__all__) == {*procession._MODULE_OF, "__version__"}
    for name in procession.__all__:
        assert getattr(procession, name) is not None
    assert set(procession.__all__) <= set(dir(procession))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        procession.nonsense  # noqa: B018
