"""The contract where procession's own mechanisms are missing: the same tests, on multiprocessing's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procession import list_backends

TESTS = Path(__file__).parent
WEAKER = " or ".join(
    [  # what backends/portable.py says it lacks
        "descriptors",  # user code that closes all descriptors closes the channel
        "open_files",
        "program",
        "keeps",
    ]
)


@pytest.mark.leaves_things  # the resource tracker that a subprocess starts ends a little after it
def test_the_contract_holds_without_our_own_mechanisms() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider",
            str(TESTS / "test_contract.py"),
            str(TESTS / "test_causes.py"),
            "-k", f"not ({WEAKER})",
        ],
        env={**os.environ, "PROCESSION_PORTABLE": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )  # fmt: skip
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
