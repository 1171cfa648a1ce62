"""The reaper: one for each process that launches; it knows all launches, and disturbs nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ranks
from procession import start_processes
from procession._cleanup import reaper
from procession.testing.introspect import read_mask, reaper_pid
from procession.testing.scratch import is_gone, state_of
from procession.testing.times import patience
from scripts import run_program


def test_records_are_followed_to_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for what, number in (
            (reaper.BEGUN, 1),
            (reaper.BEGUN, 2),
            (reaper.FINISHED, 1),
            (reaper.BEGUN, 3),
        ):
            record = what + number.to_bytes(8, "big")
            assert len(record) == reaper.RECORD
            ours.sendall(record)
        ours.sendall(reaper.BEGUN + b"cut")
        ours.close()
        assert reaper.follow(theirs.fileno()) == {2, 3}


def await_end(pid: int, seconds: float) -> None:
    until = time.monotonic() + patience(seconds)
    while not is_gone(pid):
        assert time.monotonic() < until, f"{pid} still runs"
        time.sleep(0.002)


def test_there_is_one_for_all_launches() -> None:
    start_processes(ranks.nothing, start_method="fork")
    first = reaper_pid()
    assert first
    start_processes(ranks.nothing, start_method="spawn")
    assert reaper_pid() == first


@pytest.mark.leaves_things  # another reaper, which stays as the first did
def test_one_that_was_killed_is_replaced(start_method: str) -> None:
    start_processes(ranks.nothing, start_method=start_method)
    pid = reaper_pid()
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while state_of(pid) != "Z":
        assert time.monotonic() < until
        time.sleep(0.001)
    start_processes(ranks.nothing, start_method=start_method)
    assert reaper_pid() != pid
    assert state_of(reaper_pid()) != "X"
    assert state_of(pid) == "X"  # reaped


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_next_one_knows_of_launches_under_way(how: str, tmp_path: Path) -> None:
    """They go on, and if the launcher is killed then, what they have started ends."""
    done = run_program("replaces_its_reaper.py", str(tmp_path), how, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    await_end(int(done.stdout), 2)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_ends_with_its_launcher(method: str) -> None:
    await_end(int(run_program("shows_its_reaper.py", "pid", method).stdout), 5)


def test_it_holds_nothing_of_its_launchers() -> None:
    """Neither a pipe that the launcher made inheritable, nor its folder, nor its process group."""
    done = run_program("shows_its_reaper.py", "place", "fork")
    assert done.stdout == "b''\n/ True\n['0', '1', '2']\n"


def test_launches_go_on_with_a_warning_where_it_cannot_start(start_method: str) -> None:
    done = run_program("shows_its_reaper.py", "missing", start_method)
    assert "cannot start a reaper" in done.stderr
    assert done.stdout == "0\n"


def test_a_fork_of_the_launcher_has_its_own() -> None:
    assert run_program("shows_its_reaper.py", "fork", "fork").stdout == "0 True\n"


def test_it_survives_what_ends_a_session() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from procession._cleanup.reaper import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    until = time.monotonic() + 10
    while not read_mask(process.pid, "SigIgn") >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < until
        time.sleep(0.002)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        process.send_signal(number)
    time.sleep(0.05)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 0
