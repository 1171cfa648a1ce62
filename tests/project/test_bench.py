"""The benchmark of a launch runs its cheap rows and prints what it should, whatever the times are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    *("fork", "spawn", "forkserver", "script", "heavy", "heavy-warm", "array", "memory", "dict"),
    *(
        f"{kind}-{method}"
        for kind in ("raise", "scale", "ranks", "inside")
        for method in ("fork", "spawn", "forkserver")
    ),
    *("fds", "import"),
    *("resolve-built-in", "resolve-first-party", "resolve-third-party"),
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )


def measure(path: Path, *rows: str) -> dict[str, dict[str, Any]]:
    done = bench(*rows, "--repeat", "1", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"\n{row}: " in done.stdout for row in rows)
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def by_contestant(row: dict[str, Any]) -> dict[str, Any]:
    return {line["contestant"]: line for line in row["lines"]}


def test_cheap_rows_have_times(tmp_path: Path) -> None:
    rows = measure(tmp_path / "results.json", "fork", "script", "raise-fork", "import")
    assert list(rows) == ["fork", "script", "raise-fork", "import"]
    times = {
        (name, one, number): value
        for name, row in rows.items()
        for one, line in by_contestant(row).items()
        for answer in line["answers"]
        for number, value in answer.items()
    }
    assert times["fork", "bare", "seconds"] > 0
    assert times["fork", "procession", "seconds"] > 0
    assert times["script", "bare", "seconds"] > 0
    assert times["script", "procession", "seconds"] > 0
    assert times["raise-fork", "procession", "seconds"] > 0
    assert times["import", "bare", "seconds"] > 0
    assert times["import", "procession", "seconds with the interpreter"] > 0


def test_rows_of_names_have_times_for_each_number_of_distributions(tmp_path: Path) -> None:
    rows = measure(tmp_path / "results.json", "resolve-first-party", "resolve-third-party")
    for row in rows.values():
        lines = [line for line in row["lines"] if line["contestant"] in ("bare", "procession")]
        assert len(lines) == 6
        for line in lines:
            (answer,) = line["answers"]
            assert line["variant"] == f"{answer['distributions']} distributions"
            assert (
                min(answer["seconds"], answer["seconds again"], answer["seconds from nothing"]) > 0
            )


def test_a_goal_is_met_by_the_ratio_within_a_round(tmp_path: Path) -> None:
    row = measure(tmp_path / "results.json", "fork")["fork"]
    ours, limit = (by_contestant(row)[one] for one in ("procession", "bare"))
    ratio = ours["answers"][0]["seconds"] / limit["answers"][0]["seconds"]
    assert ours["ratio"] == {"median": ratio, "least": ratio, "largest": ratio}
    assert (row["reached"], row["met"]) == (ratio, ratio <= row["goal"]["most"])
    assert by_contestant(row)["loky"]["said"] == "-"


def test_all_rows_are_listed() -> None:
    done = bench("--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ROWS


def test_the_error_of_an_unknown_row_names_the_rows() -> None:
    done = bench("frok")
    assert done.returncode == 1
    assert "no such row: frok; there are fork, spawn" in done.stderr


def test_the_error_of_a_worker_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no numpy today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = bench("array", "--repeat", "1")
    assert done.returncode == 1
    assert "procession failed:" in done.stdout
    assert "ImportError: no numpy today" in done.stdout
