"""Runs scripts of tests, each in its own interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any


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
