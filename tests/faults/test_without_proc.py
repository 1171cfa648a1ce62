"""Ranks end with their caller, each by a pipe of its own, without /proc, as in a chroot or a sandbox.

Promise: Ranks end with their caller.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from procession._launch import death_pipes
from procession._linux import fds
from procession._linux.procstat import state_of
from procession.testing.times import patience

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="only root can cover /proc, and needs unshare (util-linux)",
    ),
]

SCRIPT = """
    import os, sys, time
    from procession import run

    def work(rank, folder, seconds):
        open(f"{folder}/{os.getpid()}", "w").close()
        time.sleep(seconds)
        return rank

    if __name__ == "__main__":
        method, folder, seconds = sys.argv[1:]
        for _ in range(3):
            print(run(work, (folder, float(seconds)), 4, start_method=method), flush=True)
    """


def start(folder: Path, start_method: str, seconds: float) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    (folder / "ranks").mkdir()
    command = [sys.executable, str(path), start_method, str(folder / "ranks"), str(seconds)]
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
    while left := [pid for pid in pids if state_of(pid) not in "?XZ"]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.01)


def test_one_launch_after_another(start_method: str, tmp_path: Path) -> None:
    told, errors = start(tmp_path, start_method, 0).communicate(timeout=60)
    assert told == "[0, 1, 2, 3]\n" * 3, errors


def test_pipes_are_freed_when_their_readers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(death_pipes, "_LISTING", "/nowhere")
    with death_pipes.death_pipes(3) as pipes:
        assert len(set(pipes)) == 3
        (kept,) = [os.dup(pipes[0])]
    with death_pipes.death_pipes(1):
        assert len(death_pipes._writers) == 2  # that of `kept`, and the new one
    os.close(kept)
    with fds.LOCK:
        death_pipes._close_unread()
    assert death_pipes._writers == []
