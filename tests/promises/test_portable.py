"""The contract holds where procession's own mechanisms are missing: the same tests, by multiprocessing's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procession import list_backends

HERE = Path(__file__).parent
CAUSES = (
    "test_the_traceback_begins_in_fn",
    "test_the_root_cause_is_the_first_to_raise_not_the_first_to_exit",
    "test_all_failures_are_on_the_exception",
    "test_an_early_exit_is_a_failure_unless_it_is_allowed",
    "test_sys_exit_0_and_none_are_success",
)
FAULTS = (  # those at which such ranks are not weaker, see backends/portable.py
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
"""The files and tests to run; pytest fails if it does not find one of them."""


@pytest.mark.leaves_things  # the resource tracker of a subprocess ends a little after it
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=list(SELECTIONS))
def test_the_contract_holds_by_multiprocessings_mechanisms(selection: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection],
        cwd=HERE,
        env={**os.environ, "PROCESSION_PORTABLE": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_list_of_backends_says_that_they_go_through_multiprocessing() -> None:
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
