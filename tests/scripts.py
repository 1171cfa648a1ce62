"""Runs scripts of tests, each in its own interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).parent
"""The folder of the modules that several tests and programs import."""

PROGRAMS = HELPERS / "programs"
"""The folder of the programs that tests run in interpreters of their own."""


def run_program(
    name: str,
    *arguments: str,
    before: tuple[str, ...] = (),
    flags: Iterable[str] = (),
    check: bool = True,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program of `PROGRAMS`, which may import the helper modules of the tests; return its output.

    Args:
        name: the name of its file.
        arguments: its command line.
        before: a command that runs it, as ``unshare``.
        flags: options of the interpreter, as ``-O``.
        check: fail the test if the exit status is not 0.
        env: its environment; None: that of this process.
        options: of `subprocess.run`.
    """
    done = subprocess.run(
        [*before, sys.executable, *flags, str(PROGRAMS / name), *arguments],
        env=environment_of_program(env),
        **{"capture_output": True, "text": True, "timeout": 60, **options},
    )
    assert done.returncode == 0 or not check, f"{done.stdout}{done.stderr}"
    return done


def environment_of_program(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which a program can import the helper modules of the tests."""
    found = dict(os.environ if env is None else env)
    return {
        **found,
        "PYTHONPATH": os.pathsep.join([str(HELPERS), *filter(None, [found.get("PYTHONPATH")])]),
    }


def execute(tmp_path: Path, text: str, *arguments: str, **options: Any) -> str:
    """Run a script, and return what it printed."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def block_cloudpickle(folder: Path) -> str:
    """Return a folder in which the import of cloudpickle fails."""
    path = folder / "blocked"
    path.mkdir()
    (path / "cloudpickle.py").write_text("raise ImportError('blocked')\n")
    return str(path)


def start(
    folder: Path, *command: str, cloudpickle: str = "with", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with cloudpickle or without."""
    paths = [block_cloudpickle(folder)] if cloudpickle == "without" else []
    path = os.pathsep.join([*paths, *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
