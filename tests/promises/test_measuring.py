"""Ranks can be measured and profiled as the page on it says, under every start method."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ranks
from procession import start_processes
from scripts import PROGRAMS

pytest.importorskip("coverage")

SETTINGS = """
[run]
concurrency = multiprocessing
parallel = true
source = .
sigterm = true
"""

SCRIPT = PROGRAMS / "is_measured.py"


def measure(folder: Path, *arguments: str, settings: str = SETTINGS) -> set[int]:
    """Return the lines of the script that coverage has seen, in any process."""
    (folder / "folder").mkdir(exist_ok=True)
    (folder / ".coveragerc").write_text(settings)
    shutil.copy(SCRIPT, folder / "train.py")  # `source` in the settings is this folder
    environment = {**os.environ, "COVERAGE_FILE": ""}
    for variable in ("COVERAGE_FILE", "COVERAGE_RCFILE", "COVERAGE_PROCESS_CONFIG"):
        environment.pop(variable, None)

    def coverage(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "coverage", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr
        return done.stdout

    coverage("run", str(folder / "train.py"), *arguments)
    coverage("combine", "-q")
    coverage("json", "-q", "-o", "found.json")
    files = json.loads((folder / "found.json").read_text())["files"]
    return set(
        next(one for name, one in files.items() if name.endswith("train.py"))["executed_lines"]
    )


def line(text: str) -> int:
    """Return the number of the script's line that is this text, or begins with it and a comment."""
    lines = SCRIPT.read_text().splitlines()
    (number,) = [i for i, one in enumerate(lines, 1) if one.partition("#")[0].strip() == text]
    return number


BEFORE, AFTER = line("before = rank"), line("return before")


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("returns", AFTER),
        ("raises", line("raise_it()")),
        ("exits", line("sys.exit(3)")),
        ("is stopped", line("threading.Event().wait()")),
        ("nests", line("deep = rank")),
    ],
)
def test_coverage_sees_what_ranks_run_as_it_sees_multiprocessings(
    start_method: str, how: str, seen: int, tmp_path: Path
) -> None:
    assert {BEFORE, seen} <= measure(tmp_path, start_method, how)


def test_data_of_ranks_lie_beside_those_of_their_caller(start_method: str, tmp_path: Path) -> None:
    settings = SETTINGS.replace("source = .\n", "")
    assert {BEFORE, AFTER} <= measure(tmp_path, start_method, "elsewhere", settings=settings)


def test_coverage_sees_ranks_that_multiprocessing_starts(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSION_PORTABLE", "1")
    assert {BEFORE, AFTER} <= measure(tmp_path, start_method, "returns")


def test_coverage_sees_no_rank_without_the_setting(start_method: str, tmp_path: Path) -> None:
    settings = SETTINGS.replace("concurrency = multiprocessing\n", "")
    assert not {BEFORE, AFTER} & measure(tmp_path, start_method, "returns", settings=settings)


def test_coverage_sees_ranks_by_its_patches_too(start_method: str, tmp_path: Path) -> None:
    settings = SETTINGS.replace("concurrency = multiprocessing", "patch = subprocess, _exit")
    assert {BEFORE, AFTER} <= measure(tmp_path, start_method, "returns", settings=settings)


def find_py_spy() -> str:
    """Return py-spy's path, if it is installed and may look into processes."""
    path = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip("pip install py-spy")
    if sys.version_info >= (3, 15):
        pytest.skip("py-spy does not know this Python yet")
    seen = subprocess.run([path, "dump", "--pid", str(os.getpid())], capture_output=True, text=True)
    if "Permission" in seen.stderr or "not permitted" in seen.stderr:
        pytest.skip("processes may not be traced here")
    return path


def test_py_spy_shows_where_a_rank_is(start_method: str) -> None:
    path = find_py_spy()
    context = start_processes(ranks.work, join=False, start_method=start_method)
    try:
        seen = ""
        until = time.monotonic() + 30
        while "work (ranks.py" not in seen and time.monotonic() < until:  # it may not be there yet
            command = [path, "dump", "--pid", str(context.pids()[0])]
            seen = subprocess.run(command, capture_output=True, text=True).stdout
    finally:
        context.terminate()
    assert "work (ranks.py" in seen


def test_py_spy_records_ranks(start_method: str, tmp_path: Path) -> None:
    path = find_py_spy()
    command = [path, "record", "--subprocesses", "--format", "raw", "--output", "found", "--"]
    subprocess.run(
        [*command, sys.executable, str(PROGRAMS / "is_busy.py"), start_method],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert "work (" in (tmp_path / "found").read_text()
