"""A rank reports the text that `traceback` would make, whether or not the rank has imported `traceback`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from scripts import run_program

RAISES = {
    "plain": "raise ValueError('plain')",
    "without a message": "raise KeyError",
    "several lines": "raise ValueError('one\\ntwo')",
    "of a class within a class": "raise Outer.Inner('text', 5)",
    "caused": "try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        raise RuntimeError('caused') from error",
    "while another": "try:\n        1 / 0\n    except ZeroDivisionError:\n        {}['missing']",
    "suppressed": "try:\n        1 / 0\n    except ZeroDivisionError:\n"
    "        raise RuntimeError('suppressed') from None",
    "syntax": "compile('a b', '<somewhere>', 'exec')",
    "recursion": "fail(rank)",
    "not to be printed": "raise Unprintable",
    "an interrupt": "raise KeyboardInterrupt",
    "not of ASCII": "raise ValueError('naïve ☃ \\udc80')",
    "an expression": "return (1 +\n        len([0][rank - 1:\n            3].nothing))",
    "a name": "return undefined_name + 1",
    "with notes": "error = ValueError('noted')\n    error.__notes__ = ['one', 'two\\nthree']\n"
    "    raise error",
    "a group": "raise group()",
    "of code without a file": "exec('def inner():\\n    raise ValueError(5)\\ninner()', {})",
}

# a template: each test inserts another way to fail
MODULE = """
class Outer:
    class Inner(Exception):
        pass


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


def group():
    try:
        fail_in(KeyError)
    except KeyError as error:
        return ExceptionGroup("two", [error, TypeError(2)])


def fail_in(kind):
    raise kind


def fail(rank):
    {how}
"""


@pytest.mark.parametrize("name", RAISES)
def test_text_is_that_of_traceback(name: str, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(MODULE.format(how=RAISES[name]), encoding="utf-8")
    paths = [str(tmp_path), *filter(None, sys.path)]  # -S leaves out what is installed
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = run_program("compares_with_traceback.py", flags=["-S"], env=env)
    lean = sys.version_info < (3, 13) and name != "of code without a file"
    if not (name == "a group" and sys.version_info < (3, 11)):
        assert done.stdout.strip() == str(lean)
