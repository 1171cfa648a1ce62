"""Scripts that tests run, and what became of the processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

on_each_base = pytest.mark.parametrize("base", ["forkserver", "spawn", "fork"])
"""On each of the start methods that ranks are started by."""

TELL = """
def tell(*values):
    with open({path!r}, "a") as file:
        print(*values, sep="\\n", file=file)
"""


def execute(folder: Path, text: str) -> str:
    """Run a script in an interpreter of its own, and return what it told by `tell`.

    What it prints is mixed with what Gloo writes.
    """
    path, told = folder / "script.py", folder / "told"
    told.write_text("")
    path.write_text(TELL.format(path=str(told)) + textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return told.read_text()


def assert_gone(pids: Iterable[int], seconds: float) -> None:
    """Fail unless processes are gone within some seconds."""
    until = time.monotonic() + seconds
    alive = set(pids)
    while alive and time.monotonic() < until:
        alive = {pid for pid in alive if is_alive(pid)}
        time.sleep(0.01)
    assert not alive, f"alive after {seconds:g} s: {alive}"


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
