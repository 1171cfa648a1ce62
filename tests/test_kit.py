"""How the conformance kit is called; tests/kit has what it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procession.testing import BackendConformance

KIT = "--pyargs", "procession.testing", "-c", os.devnull, "-p", "no:cacheprovider", "-q"


def run_kit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", *KIT, "--rootdir", str(folder), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_without_a_name_it_says_how(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "-rs", "-k", "sentinel")
    assert "give the name of a start method: --procession-backend NAME" in done.stdout


def test_a_name_that_there_is_not_stops_it_at_once(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "no-such")
    assert done.returncode == 1
    assert (
        "cannot find start method 'no-such'; known: command, fork, forkserver, spawn" in done.stdout
    )
    assert "not run: test_it_is_a_backend has failed" in done.stdout
    assert " 1 error" in done.stdout


@pytest.mark.parametrize("option", ["arguments", "arguments=nice", "=1"])
def test_an_option_that_is_none_is_refused(option: str, tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "spawn", "--procession-option", option)
    assert done.returncode == 4
    assert "--procession-option" in done.stderr
    assert "NAME=JSON" in done.stderr


def test_one_test_can_be_chosen(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "spawn", "-k", "join_returns")
    assert done.returncode == 0
    assert "certified: 1 tests passed" in done.stdout
    assert "procession conformance: spawn" in done.stdout


def test_interrupts_reach_ranks_though_the_shell_ignores_them(tmp_path: Path) -> None:
    command = f"trap '' INT; exec {sys.executable} -m pytest {' '.join(KIT)} --rootdir {tmp_path} "
    chosen = "--procession-backend spawn -k 'rank_fault and SIGINT'"
    done = subprocess.run(
        command + chosen, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert "certified: 1 tests passed" in done.stdout, done.stdout


def test_what_is_expected_to_fail_must_be_a_test() -> None:
    with pytest.raises(TypeError, match="there is no test 'test_nonsense"):
        type("Wrong", (BackendConformance,), {"expected_failures": {"test_nonsense[a]": "why"}})


def test_the_kit_has_one_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        __import__("procession.testing").testing.nonsense  # noqa: B018
