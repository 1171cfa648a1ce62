"""A launch belongs to the process that made it, not to its context.

Promise: Launches do not disturb each other.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import ProcessRaisedException, get_context, run, start_processes
from procession.testing.introspect import read_mask
from procession.testing.scratch import state_of

SCRIPT = Path(__file__).parents[1] / "forgetting_caller.py"
PATIENCE = 30.0  # seconds to wait for an event


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Any]:
    """Start the script, which gives cues in the folder of the test."""
    made: list[subprocess.Popen[str]] = []

    def start(method: str, how: str, what: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), method, how, what, str(tmp_path)]
        made.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def await_file(path: Path) -> str:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < until, f"no {path.name!r}"
        time.sleep(0.002)
    return path.read_text()


@pytest.mark.parametrize("how", ["dropped", "keeps", "processes", "queue"])
def test_ranks_run_on_and_are_waited_for_at_the_exit(
    caller: Any, tmp_path: Path, start_method: str, how: str
) -> None:
    process = caller(start_method, how, "works")
    await_file(tmp_path / "leaving")
    assert not (tmp_path / "done 0").exists()
    (tmp_path / "go on").touch()
    _, errors = process.communicate(timeout=PATIENCE)
    assert [(tmp_path / f"done {rank}").exists() for rank in range(2)] == [True, True]
    assert (process.returncode, errors) == (5, "")


def test_daemonic_ranks_are_ended_at_the_exit(
    caller: Any, tmp_path: Path, start_method: str
) -> None:
    process = caller(start_method, "daemons", "cannot end")
    pids = [int(await_file(tmp_path / f"rank {rank}")) for rank in range(2)]
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert all(state_of(pid) in "XZ" for pid in pids)


@pytest.mark.parametrize("how", ["dropped", "keeps"])
def test_a_failure_is_logged_and_the_others_are_ended(
    caller: Any, tmp_path: Path, start_method: str, how: str
) -> None:
    process = caller(start_method, how, "fails")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert "a launch of act that was not joined failed: rank 1" in errors
    assert (
        errors.count("ValueError: boom") == 3
    )  # by the rank itself; and in the log, with traceback
    assert "Process " in errors


def test_an_interrupt_at_the_exit_ends_the_ranks(
    caller: Any, tmp_path: Path, start_method: str
) -> None:
    process = caller(start_method, "dropped", "cannot end")
    await_file(tmp_path / "leaving")
    pids = [int(await_file(tmp_path / f"rank {rank}")) for rank in range(2)]
    wait_until_waiting(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert all(state_of(pid) in "XZ" for pid in pids)


def test_an_interrupt_that_ends_the_caller_ends_the_ranks(
    caller: Any, tmp_path: Path, start_method: str
) -> None:
    """Although the caller was not waiting for them when it came."""
    process = caller(start_method, "sleeps", "cannot end")
    await_file(tmp_path / "leaving")
    pids = [int(await_file(tmp_path / f"rank {rank}")) for rank in range(2)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert all(state_of(pid) in "XZ" for pid in pids)


def wait_until_waiting(pid: int) -> None:
    """Wait until a process has the handlers that it installs to wait for ranks."""
    until = time.monotonic() + PATIENCE
    while not read_mask(pid, "SigCgt") >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_later_launch_reaps_what_has_ended(
    caller: Any, tmp_path: Path, start_method: str
) -> None:
    process = caller(start_method, "dropped", "again")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert (tmp_path / "children").read_text() == "0"


def test_dropping_a_context_stops_nothing(start_method: str) -> None:
    event = get_context(start_method).Event()
    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    context = start_processes(wait_for, (event,), **arguments)
    processes = list(context.processes)
    del context
    gc.collect()
    assert all(process.is_alive() for process in processes)
    event.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    del processes
    run(ranks.give, start_method=start_method)  # also reaps the ranks of that launch


def wait_for(rank: int, event: Any) -> None:
    event.wait()


def test_an_exception_that_leaves_the_block_has_a_note_on_the_failure(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    context = start_processes(fail_at_once, nprocs=2, join=False, start_method=start_method)
    with pytest.raises(queue.Empty) as caught, context:  # noqa: PT012  # the exception leaves this block
        context.processes[1].join()
        queue.Queue[int]().get(block=False)
    notes = "".join(ranks.notes_on(caught.value))
    if sys.version_info >= (3, 11):
        assert "the launch failed: rank 1" in notes
        assert "ValueError: boom" in notes
    assert "ValueError: boom" in caplog.text


def test_a_failure_that_was_raised_is_not_noted_again(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    context = start_processes(fail_at_once, nprocs=2, join=False, start_method=start_method)
    with pytest.raises(ProcessRaisedException) as caught, context:
        context.wait()
    assert "meanwhile" not in "".join(ranks.notes_on(caught.value))
    assert "boom" not in caplog.text


def fail_at_once(rank: int) -> None:
    if rank == 1:
        raise ValueError("boom")
    ranks.work(rank)


def test_ranks_print_their_traceback_only_without_join(
    start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessRaisedException):
        start_processes(fail_at_once, nprocs=2, start_method=start_method)
    assert "boom" not in capfd.readouterr().err
    context = start_processes(fail_at_once, nprocs=2, join=False, start_method=start_method)
    with pytest.raises(ProcessRaisedException):
        context.wait()
    printed = capfd.readouterr().err
    assert printed.startswith("Process ")
    assert re.match(r"Process \w+Process-\d+:\nTraceback \(most recent call last\):", printed)
    assert printed.endswith("ValueError: boom\n")


def test_a_supervised_launch_is_ended_and_logged_at_once(
    start_method: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    context = start_processes(
        fail_at_once, nprocs=2, join=False, start_method=start_method, supervise=True
    )
    until = time.monotonic() + PATIENCE
    while "not joined" not in caplog.text:
        assert time.monotonic() < until
        time.sleep(0.002)
    for process in context.processes:
        process.join()
    assert caplog.text.count("a launch of fail_at_once that was not joined failed") == 1
    assert "ValueError: boom" in caplog.text
    assert "boom" not in capfd.readouterr().err
    with pytest.raises(ProcessRaisedException):
        context.wait()
    await_no_supervisor()


def await_no_supervisor() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("procession supervises"):
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_a_supervised_launch_may_be_waited_for_too(start_method: str) -> None:
    event = get_context(start_method).Event()
    context = start_processes(
        wait_for, (event,), 2, join=False, start_method=start_method, supervise=True
    )
    assert context.wait(0.05) is False
    event.set()
    assert context.wait() is True
    await_no_supervisor()


def test_the_supervising_thread_does_not_make_forks_unsafe() -> None:
    with start_processes(
        ranks.work, nprocs=1, join=False, start_method="spawn", supervise=True
    ) as context:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for _ in range(20):
                assert run(ranks.give, nprocs=2, start_method="fork") == [(0,), (1,)]
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = run(ranks.give, nprocs=1, start_method="fork") != [(0,)]
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert context.wait(0) is False
    await_no_supervisor()


def test_without_supervise_there_is_no_thread(start_method: str) -> None:
    before = threading.active_count()
    with start_processes(ranks.work, nprocs=1, join=False, start_method=start_method):
        assert threading.active_count() == before


def test_a_process_that_multiprocessing_forked_waits_for_its_ranks_too(
    start_method: str, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    process = multiprocessing.get_context("fork").Process(
        target=leave_a_rank, args=(start_method, path)
    )
    process.start()
    process.join()
    assert (process.exitcode, path.exists()) == (0, True)
    process.close()


def leave_a_rank(start_method: str, path: Path) -> None:
    start_processes(write_later, (path,), 1, join=False, start_method=start_method)


def write_later(rank: int, path: Path) -> None:
    time.sleep(0.3)
    path.touch()
