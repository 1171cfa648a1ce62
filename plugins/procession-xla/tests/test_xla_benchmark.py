"""The benchmark of a start runs, and measures every installed contestant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_benchmark_measures_every_contestant() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.xla", "--rounds", "1", "--ranks", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert ended.returncode == 0, ended.stderr
    ours = (f"procession{how}" for how in ("", ", cold", ", spawn", ", fork"))
    for contestant in (*ours, "bare", "bare limit"):
        rows = [line for line in ended.stdout.splitlines() if f"{contestant} " in line]
        assert len(rows) >= 2, ended.stdout
    assert "Error" not in ended.stdout
