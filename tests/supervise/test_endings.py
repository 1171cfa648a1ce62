"""A launch has finished only once the cleanup after its ranks is done.

Promises: What ranks start ends with them; An interrupt is orderly; Launches do not disturb each other.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    ResultError,
    run,
    start_processes,
)
from procession._cleanup import marks, reaper_client, tree
from procession._python import unpatched
from procession._supervise.process import RankProcess
from procession.testing.faults import start_program, start_session
from procession.testing.introspect import list_servers
from procession.testing.scratch import Stage, state_of
from procession.testing.times import patience
from scripts import run_program


@pytest.fixture
def slow_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the wait for what ranks left behind long enough for a signal to interrupt it."""
    monkeypatch.setattr(tree, "LINGER", 1.0)


def leave_something(rank: int, folder: str, fails: bool) -> None:
    stage = Stage(folder, 60)
    start_program(stage)
    if fails:
        start_session(stage)
        raise ValueError("boom")


def assert_gone(folder: Path) -> None:
    until = time.monotonic() + patience(2)
    while left := [pid for pid in Stage(str(folder), 0).noted() if state_of(pid) not in "XZ"]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.002)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("slow_linger")
def test_an_interrupt_during_the_cleanup_leaves_nothing_running(
    start_method: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = marks.end
    came: list[object] = []

    def interrupted(*arguments: Any) -> bool:
        came.append(arguments)
        if len(came) == 1:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(marks, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_processes(leave_something, (str(tmp_path), fails), start_method=start_method)
    assert_gone(tmp_path)


@pytest.mark.usefixtures("slow_linger")
def test_an_exception_of_a_handler_during_the_cleanup_does_not_end_it(
    start_method: str, tmp_path: Path
) -> None:
    def raise_late(*_: object) -> None:
        raise TimeoutError("from a handler")

    previous = signal.signal(signal.SIGALRM, raise_late)
    context = start_processes(
        leave_something, (str(tmp_path), True), join=False, start_method=start_method
    )
    context.processes[0].join()
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeoutError):
            context.wait()
        with pytest.raises(ProcessRaisedException, match="boom"):
            context.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert_gone(tmp_path)


@pytest.mark.usefixtures("slow_linger")
def test_every_thread_that_joins_waits_for_the_cleanup(start_method: str, tmp_path: Path) -> None:
    context = start_processes(
        leave_something, (str(tmp_path), True), join=False, start_method=start_method
    )
    context.processes[0].join()
    left: list[list[int]] = []

    def join() -> None:
        with pytest.raises(ProcessRaisedException):
            context.wait()
        noted = Stage(str(tmp_path), 0).noted()
        left.append([pid for pid in noted if state_of(pid) not in "XZ"])

    threads = [threading.Thread(target=join) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [[], []]


def test_a_cleanup_without_descriptors_hides_no_failure(
    start_method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    searched: list[int] = []
    withdrawn: list[int] = []

    def fail(mark: int, *_: object) -> bool:
        searched.append(mark)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc")

    monkeypatch.setattr(marks, "end", fail)
    real = reaper_client.withdraw
    monkeypatch.setattr(reaper_client, "withdraw", withdrawn.append)
    with pytest.raises(ProcessRaisedException, match="boom"):
        start_processes(ranks.fail_in, (0, "ValueError"), start_method=start_method)
    assert "cannot look for what a launch's ranks have started" in caplog.text
    assert withdrawn == []  # the reaper stays responsible
    assert searched
    for mark in searched:
        real(mark)


def test_the_cleanup_takes_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    never = os.eventfd(0, os.EFD_CLOEXEC) if hasattr(os, "eventfd") else os.pipe()[0]
    monkeypatch.setattr(marks, "PATIENCE", 0.2)
    monkeypatch.setattr(marks, "find", lambda *_, **__: ([os.dup(never)], False))
    begun = time.monotonic()
    assert marks.end(1 << 61) is False
    assert time.monotonic() - begun < patience(2)
    os.close(never)


def test_a_result_larger_than_a_file_may_be_is_a_missing_result_and_no_failure(
    start_method: str,
) -> None:
    with pytest.raises(ResultError, match=r"it cannot be sent: .*File too large"):
        run(give_beyond_the_limit, start_method=start_method)


def give_beyond_the_limit(rank: int) -> bytes:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return bytes(100_000)


def test_many_ranks_that_have_ended_do_not_block_their_server() -> None:
    context = start_processes(ranks.nothing, nprocs=400, join=False, start_method="forkserver")
    for process in context.processes:
        while state_of(process.pid or 0) not in "XZ":
            time.sleep(0.001)
    assert run(ranks.give, start_method="forkserver") == [(0,)]
    assert context.wait()


def test_many_ranks_of_a_server_are_stopped_at_once() -> None:
    context = start_processes(ranks.work, nprocs=400, join=False, start_method="forkserver")
    context.terminate()
    assert {process.exitcode for process in context.processes} <= {-15, -9}


def test_a_handler_may_look_at_ranks_while_an_exit_code_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here, just before the wait for a message of the server, which the handler then reads."""
    context = start_processes(ranks.nothing, nprocs=2, join=False, start_method="forkserver")
    seen: list[list[bool]] = []

    def look_first(fd: int, *arguments: Any) -> bool:
        if len(seen) < 3 and stat.S_ISSOCK(os.fstat(fd).st_mode):
            seen.append([])
            seen[-1] += [process.is_alive() for process in context.processes]
        return real(fd, *arguments)

    real = unpatched.is_ready
    monkeypatch.setattr(unpatched, "is_ready", look_first)
    assert context.wait()
    assert seen


@pytest.mark.parametrize(
    "line",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.set_wakeup_fd(-1); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])",
    ],
)
def test_a_preloaded_module_may_change_the_handling_of_sigchld(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meddles.py").write_text(f"import signal\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"preload": ["meddles"]}
    begun = time.monotonic()
    answers = run(ranks.give, nprocs=4, start_method="forkserver", options=options)
    assert answers == [(0,), (1,), (2,), (3,)]
    assert time.monotonic() - begun < patience(3)  # not a second a rank
    server = list_servers()[-1].process
    assert server is not None
    assert server.is_alive()


def test_a_stopped_server_delays_little_and_hides_no_kill() -> None:
    start_processes(ranks.nothing, start_method="forkserver")
    context = start_processes(ranks.work, nprocs=6, join=False, start_method="forkserver")
    server = list_servers()[-1].process
    assert server is not None
    os.kill(server.pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        context.terminate(grace_period=0.1)
        # KILL_WAIT alone is 3 s, and a launch waits 1 s in all for its server
        assert time.monotonic() - begun < patience(4)
        for pid in context.pids():
            assert state_of(pid) in "XZ"
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_rank_may_change_the_terminal_that_its_caller_has(start_method: str) -> None:
    done = run_program(
        "changes_terminal.py", start_method, "in a terminal", check=False, stdin=subprocess.DEVNULL
    )
    assert "changed" in done.stdout
    assert "Timeout" not in done.stdout


@pytest.mark.skipif(
    tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 15),
    reason="a kernel before Linux 6.15 keeps no exit status of a process that it has reaped",
)
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_the_exit_code_of_a_rank_is_known_where_the_kernel_reaps_it_at_once(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RankProcess.of_child

    def take_hold_late(pid: int, **details: Any) -> RankProcess:
        time.sleep(0.3)  # long enough for the rank to end
        return real(pid, **details)

    monkeypatch.setattr(RankProcess, "of_child", take_hold_late)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(ProcessExitedException) as caught:
            start_processes(ranks.fail_in, (0, "_exit 7"), start_method=start_method)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert caught.value.exit_code == 7
