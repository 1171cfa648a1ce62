"""What callers of torch.multiprocessing.start_processes rely on, on every start method.

Promise: torch's contract holds.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import multiprocessing.connection
import pickle
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import procession
import ranks
from procession import (
    LaunchOptions,
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    get_context,
    start_processes,
)
from procession.testing.scratch import Stage


def test_the_signature_is_torchs_and_keywords_follow() -> None:
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
    spawned = [
        (one.name, one.default) for one in inspect.signature(procession.spawn).parameters.values()
    ]
    assert spawned[1:] == [(one.name, one.default) for one in positional[1:]]


def test_an_unknown_keyword_is_an_error_that_names_those_of_launch_options() -> None:
    keywords: dict[str, Any] = {"xyz": 1}
    with pytest.raises(TypeError, match=r"'xyz'.*known: ") as caught:
        start_processes(ranks.nothing, **keywords)
    known = str(caught.value).partition("known: ")[2].split(", ")
    assert set(known) == set(LaunchOptions.__annotations__)


def test_a_joined_call_returns_none(start_method: str) -> None:
    assert start_processes(ranks.nothing, nprocs=2, start_method=start_method) is None


def test_the_first_argument_is_the_rank_and_queues_may_be_arguments(start_method: str) -> None:
    queue = get_context(start_method).SimpleQueue()
    start_processes(ranks.put, args=(queue,), nprocs=3, start_method=start_method)
    assert sorted(queue.get() for _ in range(3)) == [0, 1, 2]
    queue.close()


def test_args_may_be_a_list(start_method: str) -> None:
    start_processes(ranks.give, args=[1, 2], nprocs=1, start_method=start_method)


def test_the_context_has_torchs_attributes(start_method: str) -> None:
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


def test_join_can_poll_until_the_end(start_method: str) -> None:
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


def test_join_does_not_wait_for_what_a_caller_has_popped(start_method: str) -> None:
    event = get_context(start_method).Event()
    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    with start_processes(wait_if_second, (event,), **arguments) as context:
        for sentinel, rank in list(context.sentinels.items()):
            if rank == 1:
                del context.sentinels[sentinel]
        assert context.join(timeout=30) is True  # torch's: none is left to join
        assert context.processes[1].is_alive()
        event.set()
        assert context.wait()


def wait_if_second(rank: int, event: Any) -> None:
    if rank == 1:
        event.wait()


def test_what_a_caller_pops_from_sentinels_concerns_join_alone(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    context.sentinels.clear()
    assert context.join() is True  # torch's: nothing is left to join
    assert context.wait(0.05) is False
    context.processes[1].terminate()
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGTERM"):
        context.wait()


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
    context = start_processes(leave_on_event, (event,), 2, join=False, start_method=start_method)
    with pytest.raises(ProcessRaisedException):
        context.wait(grace_period=20)
    assert caplog.records == []
    assert sorted(process.exitcode or 0 for process in context.processes) == [0, 1]


def leave_on_event(rank: int, event: Any) -> None:
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


def test_the_message_ends_with_the_traceback(start_method: str) -> None:
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


def test_none_is_the_default_of_multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCESSION_START_METHOD", raising=False)
    expected = multiprocessing.get_context(None).get_start_method()
    context = start_processes(ranks.nothing, join=False, start_method=None)
    assert context.wait()
    assert f" {expected} " in repr(context)
    monkeypatch.setenv("PROCESSION_START_METHOD", "spawn")
    context = start_processes(ranks.nothing, join=False, start_method=None)
    assert context.wait()
    assert " spawn " in repr(context)


def test_ranks_may_launch_ranks_unless_they_are_daemons(start_method: str) -> None:
    results = procession.run(ranks.nested, (start_method,), 2, start_method=start_method)
    assert results == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]
    with pytest.raises(ProcessRaisedException, match="daemonic processes are not allowed"):
        start_processes(ranks.start_from_daemon, daemon=True, start_method=start_method)


def test_the_call_of_torch_elastic_works(start_method: str) -> None:
    """torch.distributed.elastic calls with keywords and join=False, then polls."""
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
