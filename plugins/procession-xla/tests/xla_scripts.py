"""Scripts that tests run."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from procession.testing.listing import run_python

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
    done = run_python(str(path), path=[str(Path(__file__).parent), *sys.path])
    assert done.returncode == 0, done.stdout + done.stderr
    return told.read_text()
