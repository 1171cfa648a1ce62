"""A signal handler that stops and waits for ranks, wherever it interrupts the thread that stops them.

Another thread waits for the same launch.  Each case runs in another process, which can be killed if it
deadlocks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from procession.testing import patience

SCRIPT = Path(__file__).parent / "handler_that_waits.py"


@pytest.mark.parametrize("where", ["terminate", "begin"])
def test_the_launch_ends(where: str, start_method: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), start_method, where],
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
