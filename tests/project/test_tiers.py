"""The table of tier one names existing tests; tier one runs by default, and paths and -k run all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiers

ROOT = Path(__file__).parents[2]
MOST = 500
"""The most tests that tier one may have."""


@pytest.mark.parametrize("name", [*tiers.ON_FORK, tiers.ON_EVERY_METHOD])
def test_the_table_names_existing_tests(name: str) -> None:
    text = (ROOT / "tests" / name).read_text(encoding="utf-8")
    for slow in tiers.ON_FORK.get(name, ()):
        assert f"\ndef {slow}(" in text


def collect(*arguments: str) -> list[str]:
    """Return the names of the tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if name != "PROCESSION_FORBID_SKIPS"}
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_tier_one_runs_by_default() -> None:
    found = collect()
    assert len(found) <= MOST
    for method in ("fork", "spawn", "forkserver", "command"):
        assert f"tests/{tiers.ON_EVERY_METHOD}::test_all_ranks_return[{method}]" in found
    others = [one for one in found if "[spawn" in one or "[forkserver" in one]
    assert all(tiers.ON_EVERY_METHOD in one for one in others)


def test_a_test_that_is_named_runs_on_all_methods() -> None:
    name = "test_a_stopped_rank_is_continued_to_its_end"
    for chosen in (["tests/supervise/test_stopping.py", "-k", name], ["-k", name]):
        methods = {one.partition("[")[2].rstrip("]") for one in collect(*chosen)}
        assert methods == {"fork", "spawn", "forkserver"}
    assert len(collect("--tier", "1", "-k", "test_all_ranks_return or join_returns_when")) == 5
