"""Processes that carry the mark of a launch are found and ended, and no others.

Promise: What ranks start ends with them.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ranks
from procession import ProcessRaisedException, run, start_processes
from procession._cleanup import marks
from procession.testing.faults import start_session, start_stranger
from procession.testing.scratch import Stage, state_of
from procession.testing.times import patience
from scripts import PROGRAMS, run_program
from starters import fail_with, start_one


@pytest.fixture
def mark() -> int:
    """A mark that no other test uses."""
    return marks.mark_of(os.urandom(8).hex())


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def wait_until_gone(*pids: int) -> None:
    until = time.monotonic() + patience(2)
    while left := [pid for pid in pids if state_of(pid) not in "XZ"]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.002)


def test_marks_are_large_and_of_a_launch() -> None:
    one, other = (marks.mark_of(text) for text in ("0" * 16, "f" * 16))
    assert 1 << 61 <= one < other < 1 << 62


def test_only_what_carries_the_mark_is_ended(mark: int, sleeper: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen(["sleep", "60"]) as marked:
        marks.put(marked.pid, mark)
        marks.end(mark)
        assert marked.wait() in (
            -signal.SIGKILL,
            0,
        )  # 0: `end` has reaped it, as it does with orphans
    assert state_of(sleeper.pid) in "SR"


def test_the_mark_0_ends_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    marks.spare(sleeper.pid)  # its limit is 0, as that of other processes may be
    marks.end(0)
    assert state_of(sleeper.pid) in "SR"


def test_a_spared_process_and_all_that_it_starts_run_on(mark: int) -> None:
    code = (
        "import resource, subprocess, sys, time\n"
        "resource.setrlimit(10, (0, resource.getrlimit(10)[1]))\n"  # as documented for daemons
        "print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        marks.put(process.pid, mark)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        marks.end(mark)
        assert state_of(process.pid) in "SR"
        assert state_of(child) in "SR"
        os.kill(child, signal.SIGKILL)
        process.kill()


def test_a_process_that_forks_and_ends_again_and_again_is_ended(mark: int) -> None:
    code = "import os, time\nwhile os.fork() == 0 or time.sleep(0.002): pass\n"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        marks.put(process.pid, mark)
        time.sleep(0.1)
        marks.end(mark)
        alive, _ = marks.find(mark)
        assert alive == []


RESPAWNERS = ["a chain", "a supervisor", "two that watch each other"]


@pytest.mark.parametrize("pause", [0.0005, 0.002, 0.02])
@pytest.mark.parametrize("kind", RESPAWNERS)
def test_processes_that_start_themselves_anew_are_ended(mark: int, kind: str, pause: float) -> None:
    program = str(PROGRAMS / "respawns.py")
    with subprocess.Popen([sys.executable, "-S", program, kind, str(pause)]) as process:
        marks.put(process.pid, mark)
        time.sleep(0.2)
        ended = marks.end(mark)
        left = [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if carries(pid, mark)
        ]
        for _ in range(100):  # leave none, whatever the outcome
            if marks.end(mark):
                break
    assert ended
    assert left == []


def carries(pid: int, mark: int) -> bool:
    return marks.read_mark(pid) == mark and state_of(pid) not in "XZ"


def test_what_cannot_be_ended_is_named(mark: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        marks.put(process.pid, mark)
        monkeypatch.setattr(marks, "pidfd_send_signal", lambda *_: None)
        monkeypatch.setattr(marks, "PATIENCE", 0.1)
        assert marks.end(mark) is False
        assert marks.describe(mark) == f"{process.pid} (sleep)"
        process.kill()
    assert "too fast" in marks.describe(mark)


def test_a_hard_limit_that_is_too_low_is_no_error(mark: int) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(10, (5, 5))
            os.setgid(65534)
            os.setuid(65534)
            marks.put(0, mark)
            status = 0 if resource.getrlimit(10) == (5, 5) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_program_that_ends_soon_after_its_rank_has_time_to(
    start_method: str, fails: bool, tmp_path: Path
) -> None:
    """For example a ``tee`` that writes the log of a rank."""
    try:
        start_processes(write_through_a_program, (str(tmp_path), fails), start_method=start_method)
    except ProcessRaisedException:
        assert fails
    assert (tmp_path / "log").read_text() == "the last line\n"


def write_through_a_program(rank: int, folder: str, fails: bool) -> None:
    command = f"read line; sleep 0.05; echo $line > {folder}/log"
    program = subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE)
    assert program.stdin is not None
    program.stdin.write(b"the last line\n")
    program.stdin.flush()
    if fails:
        raise ValueError("boom")


def test_daemons_of_ranks_that_succeed_run_on(start_method: str, tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), 60)
    start_processes(start_one, ("session", str(tmp_path)), start_method=start_method)
    (pid,) = stage.noted()
    assert state_of(pid) in "SR"
    os.kill(pid, signal.SIGKILL)


def test_daemons_can_be_kept(start_method: str, tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), 60)
    with pytest.raises(ProcessRaisedException):
        start_processes(
            fail_with,
            (["program", "session", "stranger", "daemon"], str(tmp_path)),
            start_method=start_method,
            keep_daemons=True,
        )
    until = time.monotonic() + patience(2)
    while len(daemons := [pid for pid in stage.noted() if state_of(pid) not in "XZ"]) > 3:
        assert time.monotonic() < until  # the program, which is in the group of its rank, is ending
    assert len(daemons) == 3
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(*daemons)


def test_terminate_ends_what_ranks_started(start_method: str, tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), 60)
    context = start_processes(
        start_and_work, (str(tmp_path),), join=False, start_method=start_method
    )
    stage.await_cue("ready")
    context.terminate()
    wait_until_gone(*stage.noted())


def start_and_work(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)
    start_stranger(stage)
    start_session(stage)
    stage.tell("ready")
    stage.work()


def test_what_nested_ranks_started_ends_with_the_outer_launch(
    start_method: str, tmp_path: Path
) -> None:
    stage = Stage(str(tmp_path), 60)
    with pytest.raises(ProcessRaisedException, match="the outer one"):
        start_processes(launch_inner, (str(tmp_path),), 2, start_method=start_method)
    assert len(stage.noted()) == 3
    wait_until_gone(*stage.noted())


def launch_inner(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)
    if rank == 0:
        run(note_and_start, (folder,), start_method="fork")
    stage.await_cue("ready")
    raise ValueError("the outer one")


def note_and_start(rank: int, folder: str) -> None:
    Stage(folder, 60).note(os.getpid())
    start_and_work(rank, folder)


def test_the_outer_launch_ends_what_an_inner_one_that_keeps_daemons_started(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), 60)
    with pytest.raises(ProcessRaisedException, match="boom"):
        start_processes(launch_keeping, (str(tmp_path),), start_method="fork")
    wait_until_gone(*stage.noted())


def launch_keeping(rank: int, folder: str) -> None:
    start_processes(start_one, ("stranger", folder), start_method="fork", keep_daemons=True)
    raise ValueError("boom")


def test_a_caller_that_inherits_orphans_has_no_zombies(start_method: str, tmp_path: Path) -> None:
    """Process 1 of a container is such a caller."""
    assert run_program("inherits_orphans.py", start_method, str(tmp_path)).stdout == "0\n"


def test_ranks_carry_the_mark(start_method: str) -> None:
    first, second = run(tell_limit, nprocs=2, start_method=start_method)
    assert first == second
    assert 1 << 61 <= first < 1 << 62
    (unmarked,) = run(tell_limit, start_method=start_method, keep_daemons=True)
    assert unmarked == resource.getrlimit(10)[0]


def tell_limit(rank: int) -> int:
    return resource.getrlimit(10)[0]


def test_ranks_can_start_what_shares_their_limits(start_method: str) -> None:
    """The mark limits nothing: file locks are as many as before."""
    assert run(lock_many, start_method=start_method) == [200]


def lock_many(rank: int) -> int:
    import fcntl
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 400)
        file.flush()
        for start in range(0, 400, 2):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, start)
    return 200


def test_a_failing_launch_prints_nothing(
    start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessRaisedException):
        start_processes(ranks.fail_in, (0, "ValueError"), start_method=start_method)
    assert capfd.readouterr().err == ""
