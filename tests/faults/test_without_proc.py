"""Ranks end with their caller without /proc, as in a chroot or a sandbox: each has its own death pipe.

Promise: Ranks end with their caller.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from procession._launch.death_pipes import death_pipes
from procession.testing.introspect import list_kept
from procession.testing.scratch import is_gone
from procession.testing.times import patience
from scripts import PROGRAMS

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="only root can cover /proc, and needs unshare (util-linux)",
    ),
]


def start(folder: Path, start_method: str, seconds: float) -> subprocess.Popen[str]:
    (folder / "ranks").mkdir()
    program = str(PROGRAMS / "launches_three_times.py")
    command = [sys.executable, program, start_method, str(folder / "ranks"), str(seconds)]
    cover = 'mount -t tmpfs none /proc; exec "$@"'
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", cover, "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ranks_end_with_a_caller_that_is_killed(start_method: str, tmp_path: Path) -> None:
    caller = start(tmp_path, start_method, 60)
    until = time.monotonic() + 30
    while len(pids := [int(name) for name in os.listdir(tmp_path / "ranks")]) < 4:
        assert caller.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    caller.kill()
    caller.communicate()
    until = time.monotonic() + patience(5)
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.01)


def test_one_launch_after_another_succeeds(start_method: str, tmp_path: Path) -> None:
    out, errors = start(tmp_path, start_method, 0).communicate(timeout=60)
    assert out == "[0, 1, 2, 3]\n" * 3, errors


def test_pipes_are_freed_when_their_readers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path != "/proc/self/fd" and real(path))
    before = list_kept()
    with death_pipes(3) as pipes:
        assert len(set(pipes)) == 3
        kept = os.dup(pipes[0])
    with death_pipes(1):
        assert len(list_kept() - before) == 2  # that of `kept`, and the new one
    os.close(kept)
    with death_pipes(0):  # frees what no process reads
        assert list_kept() == before
