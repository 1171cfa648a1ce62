"""Ranks are measured and profiled as the page on it says, under every start method."""

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

pytest.importorskip("coverage")

SETTINGS = """
[run]
concurrency = multiprocessing
parallel = true
source = .
sigterm = true
"""

SCRIPT = """
import os, signal, sys, threading
from pathlib import Path
from procession import ProcessRaisedException, run, start_processes

def work(rank, how):
    before = rank
    if how == "raises":
        raise_it()
    if how == "exits":
        sys.exit(3)
    if how == "is stopped":
        if rank == 0:
            while not Path("ready").exists():
                pass
            raise ValueError("boom")
        Path("ready").touch()
        threading.Event().wait()
    if how == "nests":
        run(inner, nprocs=1, start_method=sys.argv[1])
    return before

def raise_it():
    raise ValueError("boom")

def inner(rank):
    deep = rank
    return deep

if __name__ == "__main__":
    if sys.argv[2] == "elsewhere":
        os.chdir("folder")
    try:
        start_processes(work, (sys.argv[2],), 2, start_method=sys.argv[1])
    except Exception as error:
        print(type(error).__name__)
"""


def measure(folder: Path, *arguments: str, settings: str = SETTINGS) -> set[int]:
    """Return the lines of the script that coverage has seen, in any process."""
    (folder / "folder").mkdir(exist_ok=True)
    (folder / ".coveragerc").write_text(settings)
    (folder / "train.py").write_text(SCRIPT)
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
    return next(i for i, one in enumerate(SCRIPT.splitlines(), 1) if one.strip() == text)


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
def test_what_ranks_run_is_measured_as_multiprocessings_is(
    start_method: str, how: str, seen: int, tmp_path: Path
) -> None:
    assert {BEFORE, seen} <= measure(tmp_path, start_method, how)


def test_data_of_ranks_lie_beside_their_callers(start_method: str, tmp_path: Path) -> None:
    settings = SETTINGS.replace("source = .\n", "")
    assert {BEFORE, AFTER} <= measure(tmp_path, start_method, "elsewhere", settings=settings)


def test_the_portable_way_is_multiprocessings(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSION_PORTABLE", "1")
    assert {BEFORE, AFTER} <= measure(tmp_path, start_method, "returns")


def test_nothing_is_measured_unasked(start_method: str, tmp_path: Path) -> None:
    settings = SETTINGS.replace("concurrency = multiprocessing\n", "")
    assert not {BEFORE, AFTER} & measure(tmp_path, start_method, "returns", settings=settings)


def test_patched_processes_are_measured_as_well(start_method: str, tmp_path: Path) -> None:
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


BUSY = """
import sys, time
from procession import start_processes

def work(rank):
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pass

if __name__ == "__main__":
    start_processes(work, nprocs=2, start_method=sys.argv[1])
"""


def test_py_spy_records_ranks(start_method: str, tmp_path: Path) -> None:
    path = find_py_spy()
    (tmp_path / "busy.py").write_text(BUSY)
    command = [path, "record", "--subprocesses", "--format", "raw", "--output", "found", "--"]
    subprocess.run(
        [*command, sys.executable, "busy.py", start_method],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert "work (" in (tmp_path / "found").read_text()
