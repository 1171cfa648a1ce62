"""Scripts that tests run."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from procession.testing.listing import run_python

on_each_base = pytest.mark.parametrize("base", ["forkserver", "spawn", "fork"])
"""Run a test with each of the base methods that start ranks."""

TELL = """
def tell(*values):
    with open({path!r}, "a") as file:
        print(*values, sep="\\n", file=file)
"""


def execute(folder: Path, text: str) -> str:
    """Run a script in a new interpreter, and return the lines that it wrote by `tell`.

    Standard output would be mixed with the output of Gloo.
    """
    path, notes = folder / "script.py", folder / "notes"
    notes.write_text("")
    path.write_text(TELL.format(path=str(notes)) + textwrap.dedent(text))
    done = run_python(str(path), path=[str(Path(__file__).parent), *sys.path])
    assert done.returncode == 0, done.stdout + done.stderr
    return notes.read_text()
