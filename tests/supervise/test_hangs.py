"""The stacks of ranks at a deadline and on request, whatever the ranks hang in.

Promise: Hangs can be seen.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ranks
from events import await_event
from procession import ProcessContext, ProcessTimeoutError, get_context, start_processes
from procession._rank import stacks
from procession._supervise import stack_dump
from procession.testing.bystanders import lock_forever
from procession.testing.scratch import Stage, state_of
from procession.testing.times import patience


def deadlock(stage: Stage) -> None:
    """Wait in Python for a lock that is never released."""
    lock = threading.Lock()
    lock.acquire()
    stage.tell("there")
    lock.acquire()


def hold_the_gil(stage: Stage) -> None:
    """Never let Python run again."""
    stage.tell("there")
    lock_forever()


def sleep_in_a_thread(stage: Stage) -> None:
    """Have a second thread."""
    threading.Thread(target=sleep_there, args=(stage,)).start()


def sleep_there(stage: Stage) -> None:
    stage.tell("there")
    stage.work()


HANGS = {
    "deadlock": (deadlock, "in deadlock"),
    "GIL": (hold_the_gil, "in lock_forever"),
    "thread": (sleep_in_a_thread, "in sleep_there"),
}


@contextmanager
def ready_rank(start_method: str, fn: Callable[..., None], *args: Any) -> Iterator[ProcessContext]:
    """Start one rank that calls ``fn(rank, event, *args)``, and wait until it has set the event."""
    ready = get_context(start_method).Event()
    with start_processes(fn, (ready, *args), 1, join=False, start_method=start_method) as context:
        await_event(context, ready)
        yield context


def hang(rank: int, how: str, folder: str) -> None:
    HANGS[how][0](Stage(folder, 60))


@pytest.mark.parametrize("how", HANGS)
def test_stacks_come_on_request(start_method: str, how: str, tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), 0)
    with start_processes(
        hang, (how, str(tmp_path)), 1, join=False, start_method=start_method
    ) as context:
        stage.await_cue("there")
        until = time.monotonic() + 10
        while HANGS[how][1] not in (text := context.dump_stacks()[0]):  # it may not be there yet
            assert time.monotonic() < until, text
        assert text.splitlines()[0].endswith("(most recent call first):")
        assert "in live" not in text  # our own frames
        assert context.wait(0) is False  # it continues


def test_stacks_are_in_the_exception_at_a_deadline(start_method: str) -> None:
    with pytest.raises(ProcessTimeoutError) as caught:
        start_processes(ranks.work, nprocs=3, start_method=start_method, timeout=patience(3))
    assert ["in work" in one.stacks for one in caught.value.failures] == [True] * 3
    text = str(caught.value)
    assert "where the ranks were when it passed:\nrank 0, 1, 2:\n" in text
    assert text.count("in work") == 1  # equal stacks once
    assert all(os.path.dirname(stacks.__file__) not in one.stacks for one in caught.value.failures)


def test_a_deep_stack_is_shortened_in_the_message_and_whole_in_the_failure(
    start_method: str,
) -> None:
    with pytest.raises(ProcessTimeoutError) as caught:
        start_processes(sleep_deep_down, (60,), start_method=start_method, timeout=patience(3))
    message, stacks_ = str(caught.value), caught.value.failures[0].stacks
    assert stacks_.count("in sleep_deep_down") == 61
    assert "in sleep_deep_down" in message
    assert "lines left out" in message
    assert len(message.splitlines()) < 30
    assert message.splitlines()[-1] in stacks_


def sleep_deep_down(rank: int, depth: int) -> None:
    if depth:
        sleep_deep_down(rank, depth - 1)
    else:
        time.sleep(60)


def test_a_fork_that_waits_for_a_lock_of_another_thread_is_shown() -> None:
    """No check before a fork can know of it: the deadline says where the ranks are."""
    lock = threading.Lock()
    with lock, pytest.raises(ProcessTimeoutError) as caught:
        start_processes(take, (lock,), 2, start_method="fork", timeout=patience(0.5))
    assert all("in take" in one.stacks for one in caught.value.failures)


def take(rank: int, lock: Any) -> None:
    with lock:
        pass


def test_a_rank_that_cannot_answer_is_named_with_its_state(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_dump, "PATIENCE", 0.2)
    ready = get_context(start_method).SimpleQueue()
    with start_processes(
        stop_yourself, (ready,), 1, join=False, start_method=start_method
    ) as context:
        pid = ready.get()
        until = time.monotonic() + 10
        while state_of(pid) != "T":
            assert time.monotonic() < until
            time.sleep(0.001)
        found = context.dump_stacks()
        assert found == {0: "(the rank did not answer within 0.2 s: the state of its process is T)"}
    ready.close()


def stop_yourself(rank: int, ready: Any) -> None:
    ready.put(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_rank_that_does_not_take_the_signal_is_not_harmed(start_method: str) -> None:
    with ready_rank(start_method, refuse_the_signal) as context:
        found = context.dump_stacks()
        assert found[0].startswith("(the rank does not answer the signal that asks for stacks")
        assert context.wait(0.05) is False


def refuse_the_signal(rank: int, ready: Any) -> None:
    signal.signal(
        stacks.signal_numbers()[0], signal.SIG_DFL
    )  # now the signal would end the process
    ready.set()
    ranks.work(rank)


def test_stacks_of_many_ranks_come_again_and_again(start_method: str) -> None:
    barrier = get_context(start_method).Barrier(9)
    with start_processes(
        work_together, (barrier,), 8, join=False, start_method=start_method
    ) as context:
        barrier.wait()
        for _ in range(3):
            found = context.dump_stacks()
            assert sorted(found) == list(range(8))
            assert all("in work" in text for text in found.values()), found
            assert all(text.count("most recent call first") == 1 for text in found.values())


def work_together(rank: int, barrier: Any) -> None:
    barrier.wait()
    ranks.work(rank)


def test_ranks_that_have_ended_have_no_stacks(start_method: str) -> None:
    context = start_processes(ranks.nothing, nprocs=2, join=False, start_method=start_method)
    assert context.wait()
    assert context.dump_stacks() == {}


def test_a_rank_that_is_busy_in_python_is_not_harmed(start_method: str) -> None:
    """A signal handler in C that reads frames while they change crashes once in 14 to 700 times."""
    with ready_rank(start_method, change_frames) as context:
        for _ in range(1000):
            assert "in change_frames" in context.dump_stacks()[0]
        assert context.wait(0) is False


def change_frames(rank: int, ready: Any) -> None:
    ready.set()
    while True:
        sorted([3, 1, 2], key=lambda number: -number)
        list(number for number in range(10))  # noqa: C400  # for the frame of a generator


def test_a_rank_in_c_shows_its_other_threads_if_they_sleep(start_method: str) -> None:
    with ready_rank(start_method, block_in_c, sleep_long) as context:
        until = time.monotonic() + 10
        while "in sleep_long" not in (text := context.dump_stacks()[0]):  # it may not sleep yet
            assert time.monotonic() < until, text
        assert "in block_in_c" in text


def test_a_rank_in_c_shows_one_thread_alone_if_others_run(start_method: str) -> None:
    """Reading the frames of a running thread could crash the rank."""
    with ready_rank(start_method, block_in_c, change_frames) as context:
        until = time.monotonic() + 10
        while "in change_frames" in (
            text := context.dump_stacks()[0]
        ):  # the rank may not be in C yet
            assert time.monotonic() < until, text
        assert "in block_in_c" in text
        assert text.endswith("(other threads run: their stacks could not be read)")
        assert context.wait(0) is False


def block_in_c(rank: int, ready: Any, beside: Any) -> None:
    threading.Thread(target=beside, args=(rank, ready), daemon=True).start()
    lock_forever(ctypes.CDLL)


def sleep_long(rank: int, ready: Any) -> None:
    ready.set()
    time.sleep(60)


def test_equal_stacks_appear_once() -> None:
    found = stack_dump.group_stacks({0: "Thread 0x1f:\n  a\n", 2: "b", 1: "Thread 0x2e:\n  a\n"})
    assert found == ["rank 0, 1:\nThread 0x...:\n  a", "rank 2:\nb"]


def test_the_text_for_a_process_without_stacks_says_so() -> None:
    from procession._supervise.rank_state import RankState

    process: Any = type("Plain", (), {"pid": 1, "is_alive": lambda self: True})()
    channel: Any = None
    found = stack_dump.collect_stacks([RankState(0, process, 0, channel)])
    assert found == {0: "(this start method cannot show stacks)"}


def test_three_signals_that_are_hardly_used_ask_for_stacks() -> None:
    last = signal.SIGRTMAX
    assert stacks.signal_numbers() == (last - 1, last - 2, last - 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memory files to write to")
def test_a_nested_rank_offers_its_own_stacks(start_method: str) -> None:
    """It is forked from a rank, and so has the stack file of that rank as well."""
    with ready_rank(start_method, launch_inner) as context:
        assert "in launch_inner" in context.dump_stacks()[0]


def launch_inner(rank: int, ready: Any) -> None:
    with start_processes(ranks.work, nprocs=1, join=False, start_method="fork") as inner:
        until = time.monotonic() + 10
        while "in work" not in (text := inner.dump_stacks()[0]):
            assert time.monotonic() < until, text
        ready.set()
        ranks.work(rank)
