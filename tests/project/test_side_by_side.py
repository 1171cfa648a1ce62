"""The comparison with other launchers runs on a few cases, and finds no defect in procession."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "side_by_side.py"


@pytest.mark.faults
def test_the_quick_cases_find_no_defect() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--markdown", "--peers", "procession:*"],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout
    for method in ("fork", "spawn", "forkserver"):
        assert f"| procession:{method} | 10 | 10 |" in done.stdout
