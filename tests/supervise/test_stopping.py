"""Ranks that are stopped end in bounded time, whatever they do.

Promise: Stopping takes bounded time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

import ranks
from events import await_event
from procession import ProcessRaisedException, ProcessTimeoutError, get_context, start_processes
from procession._supervise.stopping import Stage
from procession.testing.scratch import is_gone
from procession.testing.times import patience


def test_a_rank_that_ignores_sigterm_is_killed_after_the_grace_period(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(ranks.stubborn, (ready,), 2, join=False, start_method=start_method)
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException):
        context.wait(grace_period=0.2)
    assert time.monotonic() - begun < patience(5)
    assert context.processes[0].exitcode == -signal.SIGKILL


def test_the_grace_period_of_the_launch_is_the_default(start_method: str) -> None:
    ready = get_context(start_method).Event()
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(ranks.stubborn, (ready,), 2, start_method=start_method, grace_period=0.1)
    assert caught.value.failures[1].signal_name == "SIGKILL"


def test_a_stopped_rank_is_continued_to_its_end(start_method: str) -> None:
    ready = get_context(start_method).SimpleQueue()
    context = start_processes(ranks.stopped, (ready,), 2, join=False, start_method=start_method)
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException):
        context.wait()
    assert time.monotonic() - begun < patience(4)  # SIGKILL comes after 5 s
    assert context.processes[0].exitcode == -signal.SIGTERM
    ready.close()


@pytest.mark.parametrize("grandchild", ["group", "rank 0's"])
def test_what_ranks_started_ends_with_them(start_method: str, grandchild: str) -> None:
    queue = get_context(start_method).SimpleQueue()
    with pytest.raises(ProcessRaisedException):
        start_processes(start_program, (queue, grandchild == "group"), 2, start_method=start_method)
    pid = queue.get()
    until = time.monotonic() + patience(5)
    while not is_gone(pid):
        assert time.monotonic() < until
        time.sleep(0.005)
    queue.close()


def start_program(rank: int, queue: Any, failing_has_it: bool) -> None:
    if rank == int(failing_has_it):
        queue.put(subprocess.Popen(["sleep", "60"]).pid)
    if rank == 1:
        while queue.empty():
            time.sleep(0.001)
        raise ValueError("boom")
    time.sleep(60)


def test_the_deadline_stops_all_and_raises(start_method: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ProcessTimeoutError, match=r"did not end within 0\.2 s") as caught:
        start_processes(ranks.work, nprocs=2, start_method=start_method, timeout=0.2)
    assert time.monotonic() - begun < patience(5)
    assert isinstance(caught.value, TimeoutError)
    assert sorted(one.rank for one in caught.value.failures) == [0, 1]
    assert all(one.collateral for one in caught.value.failures)


def test_the_deadline_holds_for_a_later_wait_too(start_method: str) -> None:
    start_processes(ranks.nothing, start_method=start_method)  # starts the server, if there is one
    context = start_processes(
        ranks.work, nprocs=2, start_method=start_method, timeout=1, join=False
    )
    with pytest.raises(ProcessTimeoutError):
        context.wait(30)
    with pytest.raises(ProcessTimeoutError):
        context.wait()


@pytest.mark.filterwarnings("ignore:start_method='fork' is not safe here:RuntimeWarning")  # threads
def test_a_thread_that_started_ranks_and_ends_does_not_harm_them(start_method: str) -> None:
    made: list[Any] = []
    event = get_context(start_method).Event()

    def launch() -> None:
        made.append(start_processes(wait, (event,), 2, join=False, start_method=start_method))

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert made[0].wait(0.3) is False
    event.set()
    assert made[0].wait()


def wait(rank: int, event: Any) -> None:
    event.wait()


def test_terminate_sends_sigterm_whatever_else_a_rank_handles(start_method: str) -> None:
    ready = get_context(start_method).Event()
    context = start_processes(
        handle_hangup, (ready,), 1, join=False, start_method=start_method, grace_period=60
    )
    await_event(context, ready)
    context.terminate()
    assert context.wait()
    assert context.processes[0].exitcode == -signal.SIGTERM


def handle_hangup(rank: int, ready: Any) -> None:
    signal.signal(signal.SIGHUP, lambda *_: os._exit(3))
    ready.set()
    time.sleep(60)


def test_a_signal_to_the_caller_allows_ranks_more_time() -> None:
    for by, seconds in ((0, 5), (signal.SIGTERM, 25)):
        with start_processes(ranks.work, nprocs=1, join=False, start_method="fork") as context:
            supervisor: Any = context._supervisor
            begun = time.monotonic()
            supervisor.stop(by=by)
            assert seconds <= supervisor._stop._due[Stage.KILL] - begun < seconds + patience(5)
