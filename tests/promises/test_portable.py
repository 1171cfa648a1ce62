"""The contract where procession's own mechanisms are missing: the same tests, on multiprocessing's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procession import list_backends

HERE = Path(__file__).parent
CAUSES = (
    "test_traceback_begins_in_fn",
    "test_root_cause_is_the_first_to_raise_not_the_first_to_leave",
    "test_all_failures_are_on_the_exception",
    "test_leaving_early_is_told_and_can_be_allowed",
    "test_sys_exit_0_and_none_are_success",
)
FAULTS = (  # what backends/portable.py does not say it is weaker at
    "ValueError", "chained", "local", "interrupts", "nothing works", "KeyboardInterrupt", "SIGKILL",
    "SIGSEGV",
)  # fmt: skip
CLASSES = ("TestFork", "TestSpawn", "TestForkserver")

SELECTIONS = {
    "contract": ["test_contract.py"],
    "causes": [f"test_causes.py::{name}" for name in CAUSES],
    "faults": [
        f"test_conformance.py::{one}::test_rank_fault[{name}]" for one in CLASSES for name in FAULTS
    ],
}
"""What runs: whole files, or tests by their full names, of which pytest finds each or fails."""


@pytest.mark.leaves_things  # the resource tracker that a subprocess starts ends a little after it
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=list(SELECTIONS))
def test_what_holds_without_our_own_mechanisms(selection: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection],
        cwd=HERE,
        env={**os.environ, "PROCESSION_PORTABLE": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_backends_say_so() -> None:
    code = (
        "from procession import list_backends\n"
        "print([(one.status, one.reason) for one in list_backends() if one.origin == 'built-in'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROCESSION_PORTABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("through multiprocessing") == 3, done.stderr
    assert not any(one.reason for one in list_backends() if one.origin == "built-in")
