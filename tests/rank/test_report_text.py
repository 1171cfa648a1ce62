"""What a rank reports is what `traceback` would have written, whether or not the rank has imported it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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

SCRIPT = """
import os, sys
sys.path[:0] = {paths!r}
import failing
from procession._rank.report import describe

try:
    failing.fail(0)
except BaseException as caught:
    error = caught
assert "traceback" not in sys.modules
text = describe(error)
if sys.version_info < (3, 11):  # the one thing that differs
    text = text.replace("<exception str() failed>", "<unprintable Unprintable object>")
early = "traceback" not in sys.modules
import traceback
expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
assert text == expected, text + "\\n---\\n" + expected
print(early)
"""


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
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(paths=[str(tmp_path), *filter(None, sys.path)]))
    done = subprocess.run(
        [sys.executable, "-S", str(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lean = sys.version_info < (3, 13) and name != "of code without a file"
    if not (name == "a group" and sys.version_info < (3, 11)):
        assert done.stdout.strip() == str(lean)
