"""The contract where procession's own mechanisms are missing: the same tests, on multiprocessing's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procession import list_backends

TESTS = Path(__file__).parent
CAUSES = ("traceback", "root_cause", "all_failures", "leaving_early", "sys_exit_0")
FAULTS = (  # what backends/portable.py does not say it is weaker at
    "ValueError", "chained", "local", "interrupts", "nothing", "KeyboardInterrupt", "SIGKILL",
    "SIGSEGV",
)  # fmt: skip


@pytest.mark.leaves_things  # the resource tracker that a subprocess starts ends a little after it
@pytest.mark.parametrize(
    "selection",
    [
        ["test_contract.py"],
        ["test_causes.py", "-k", " or ".join(CAUSES)],
        ["test_conformance.py", "-k", f"rank_fault and ({' or '.join(FAULTS)})"],
    ],
    ids=["contract", "causes", "faults"],
)
def test_what_holds_without_our_own_mechanisms(selection: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection],
        cwd=TESTS,
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
    assert done.stdout.count("by way of multiprocessing") == 3, done.stderr
    assert not any(one.reason for one in list_backends() if one.origin == "built-in")
