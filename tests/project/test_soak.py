"""A short soak; ``python tests/benchmarks/soak.py`` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.faults
def test_launches_with_random_faults_leave_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--launches", "300", "--report-every", "50", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout
    assert "300 launches of 4 ranks, 0 wrong" in done.stdout
