"""What a context answers to any thread, any number of times; results; contexts left early or dropped.

Promises: All failures are reported, the root cause first; Nothing is left over; Launches do not disturb
each other.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import warnings
from typing import Any

import pytest

import ranks
from procession import (
    ProcessContext,
    ProcessRaisedException,
    ResultError,
    get_context,
    run,
    start_processes,
)
from procession.testing.times import patience
from scripts import run_program


def test_every_join_gives_the_same_failure(start_method: str) -> None:
    context = start_processes(
        ranks.fail_in, (1, "ValueError"), 3, join=False, start_method=start_method
    )
    seen = []
    for _ in range(3):
        with pytest.raises(ProcessRaisedException) as caught:
            context.wait()
        seen.append(caught.value)
    assert len({id(error) for error in seen}) == 3
    assert len({(str(error), error.failures) for error in seen}) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_joins_of_many_threads_get_the_same_answer(start_method: str, fails: bool) -> None:
    event = get_context(start_method).Event()
    context = start_processes(wait_then, (event, fails), 2, join=False, start_method=start_method)
    answers: list[object] = []

    def join(timeout: float | None) -> None:
        try:
            answers.append(context.wait(timeout))
        except ProcessRaisedException as error:
            answers.append(error.failures)

    threads = [threading.Thread(target=join, args=(timeout,)) for timeout in (None, None, 30, 30)]
    for thread in threads:
        thread.start()
    assert context.wait(0.05) is False
    event.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0] is True) is not fails


def wait_then(rank: int, event: Any, fails: bool) -> None:
    event.wait()
    if fails and rank == 1:
        raise ValueError("boom")


def test_terminate_from_another_thread_ends_a_join(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(context.wait()))
    thread.start()
    context.terminate()
    thread.join(10)
    assert answers == [True]
    assert context.wait()


def test_terminate_kills_what_does_not_end(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(
        ignore_termination, (ready,), 1, join=False, collect_results=True, start_method=start_method
    )
    ready.wait()
    begun = time.monotonic()
    context.terminate(grace_period=0.1)
    assert time.monotonic() - begun < patience(4)
    assert context.processes[0].exitcode == -9
    with pytest.raises(ResultError, match="rank 0 left no return value: it was stopped"):
        context.results()


def ignore_termination(rank: int, ready: Any) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(60)


def test_leaving_a_context_early_stops_and_reaps_all(start_method: str) -> None:
    with start_processes(ranks.work, nprocs=3, join=False, start_method=start_method) as context:
        pids = context.pids()
    assert [process.exitcode for process in context.processes] == [-15] * 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_leaving_a_context_by_an_error_keeps_the_error(start_method: str) -> None:
    with (
        pytest.raises(KeyError),
        start_processes(ranks.work, nprocs=2, join=False, start_method=start_method),
    ):
        raise KeyError("of the block")


def test_results_come_by_rank(start_method: str) -> None:
    assert run(ranks.give, ("a", [1]), 3, start_method=start_method) == [
        (rank, "a", [1]) for rank in range(3)
    ]
    context = start_processes(
        ranks.nothing, nprocs=2, join=False, collect_results=True, start_method=start_method
    )
    assert context.results() == [None, None]
    assert context.results() == [None, None]


def test_large_results_do_not_block_a_rank(start_method: str) -> None:
    size = 20 << 20
    context = start_processes(
        give_bytes, (size,), 2, join=False, collect_results=True, start_method=start_method
    )
    for process in context.processes:
        process.join(60)  # the context has not looked yet: no one reads while the ranks end
        assert process.exitcode == 0
    assert [len(value) for value in context.results()] == [size, size]


def give_bytes(rank: int, size: int) -> bytes:
    return bytes(size)


def test_results_that_do_not_pickle_raise_once_they_are_asked_for(start_method: str) -> None:
    context = start_processes(
        give_lock, nprocs=2, join=False, collect_results=True, start_method=start_method
    )
    assert context.wait()
    with pytest.raises(ResultError, match="rank 0 left no return value: it cannot be pickled"):
        context.results()
    start_processes(give_lock, nprocs=2, start_method=start_method)
    with pytest.raises(ResultError) as caught:
        run(give_lock, start_method=start_method)
    assert caught.value.rank == 0


def give_lock(rank: int) -> Any:
    return threading.Lock()


def test_a_rank_that_left_early_has_no_result(start_method: str) -> None:
    with pytest.raises(ResultError, match=r"sys\.exit"):
        run(sys_exit, start_method=start_method)


def sys_exit(rank: int) -> None:
    sys.exit(0)


def test_await_gives_what_join_gives(start_method: str) -> None:
    async def main() -> None:
        context = start_processes(ranks.nothing, nprocs=2, join=False, start_method=start_method)
        assert await context is True
        assert await context is True
        failing = start_processes(
            ranks.fail_in, (1, "ValueError"), 2, join=False, start_method=start_method
        )
        with pytest.raises(ProcessRaisedException, match="boom"):
            await failing

    asyncio.run(main())


def test_await_leaves_the_loop_to_others_and_needs_no_thread(start_method: str) -> None:
    async def main() -> None:
        event = get_context(start_method).Event()
        context = start_processes(
            wait_then, (event, False), 2, join=False, start_method=start_method
        )
        tasks = [asyncio.ensure_future(wait(context)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
        assert threading.active_count() == threads
        tasks[0].cancel()
        event.set()
        assert await asyncio.gather(*tasks[1:]) == [True, True]
        assert tasks[0].cancelled()

    async def wait(context: ProcessContext) -> bool:
        return await context

    threads = threading.active_count()
    asyncio.run(main())


def test_await_carries_a_stop_through(start_method: str) -> None:
    async def main() -> None:
        ready = get_context(start_method).Event()
        context = start_processes(
            ranks.stubborn,
            (ready,),
            2,
            join=False,
            start_method=start_method,
            grace_period=0.1,
        )
        with pytest.raises(ProcessRaisedException):
            await context
        assert context.processes[0].exitcode == -9

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:start_method='fork' is not safe here:RuntimeWarning")  # threads
def test_many_launches_at_once_from_threads(start_method: str) -> None:
    answers: list[list[Any]] = []

    def launch() -> None:
        answers.extend(run(ranks.give, nprocs=2, start_method=start_method) for _ in range(3))

    threads = [threading.Thread(target=launch) for _ in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: fork with threads running
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [[(0,), (1,)]] * 18


def test_forks_beside_finished_contexts_print_nothing(
    start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    finished = [start_processes(ranks.nothing, **arguments) for _ in range(2)]
    assert all(context.wait() for context in finished)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert run(ranks.give, nprocs=2, start_method="fork") == [(0,), (1,)]
    assert capfd.readouterr().err == ""
    del finished


def test_a_forked_child_leaves_its_parents_ranks_alone(start_method: str) -> None:
    context = start_processes(ranks.work, nprocs=2, join=False, start_method=start_method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            del context
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert context.wait(0.1) is False
    context.terminate()


@pytest.mark.parametrize("how", ["ignored", "foreign"])
def test_ignored_sigchld_and_foreign_reapers_do_not_confuse(start_method: str, how: str) -> None:
    """Where SIGCHLD is ignored, or a thread of the caller's reaps every child."""
    done = run_program(
        "launches_while_children_are_reaped.py",
        how,
        start_method,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "1", "1"]
    assert lines[0] == "1 3"
