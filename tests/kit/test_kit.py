"""The conformance kit is called in several ways; kit_tests.py tests what it finds."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit_runs import KIT, run_kit
from procession.testing import BackendConformance, patience, test_backend
from procession.testing.subject import wait_until
from scripts import PROGRAMS


def test_the_kit_asks_for_the_name_of_a_start_method(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "-rs", "-k", "sentinel")
    assert "give the name of a start method: --procession-backend NAME" in done.stdout


def test_an_unknown_name_stops_the_kit_at_once(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "no-such")
    assert done.returncode == 1
    assert (
        "cannot find start method 'no-such'; known: command, fork, forkserver, spawn" in done.stdout
    )
    assert "not run: test_it_is_a_backend failed" in done.stdout
    assert " 1 error" in done.stdout


@pytest.mark.parametrize("option", ["arguments", "arguments=nice", "=1"])
def test_a_malformed_option_is_refused(option: str, tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "spawn", "--procession-option", option)
    assert done.returncode == 4
    assert "--procession-option" in done.stderr
    assert "NAME=JSON" in done.stderr


def test_one_test_can_be_chosen(tmp_path: Path) -> None:
    done = run_kit(tmp_path, "--procession-backend", "spawn", "-k", "join_returns")
    assert done.returncode == 0
    assert re.search("^not certified: 1 of [0-9]+ tests selected$", done.stdout, re.MULTILINE)
    assert "procession conformance: spawn" in done.stdout


def test_a_node_id_is_a_selection(tmp_path: Path) -> None:
    tests = f"{test_backend.__file__}::TestBackend::test_nothing_is_left"
    done = run_kit(tmp_path, "--procession-backend", "spawn", f"{tests}[thread]", kit=KIT[2:])
    assert done.returncode == 0
    assert "not certified: 1 of " in done.stdout
    chosen = ["-k", "nothing_is_left", "--deselect", f"{tests}[thread]", "--collect-only"]
    done = run_kit(tmp_path, "--procession-backend", "spawn", *chosen)
    assert "certified" not in done.stdout


def test_tests_that_an_author_replaces_or_skips_do_not_count(tmp_path: Path) -> None:
    shutil.copy(PROGRAMS / "certifies_spawn_in_part.py", tmp_path / "test_mine.py")
    chosen = "-k", "join_returns or is_available or is_a_backend or (can_be_released and bee)"
    done = run_kit(tmp_path, "test_mine.py", *chosen, kit=KIT[2:])
    assert done.stdout.count("not certified: 1 of ") == 1, done.stdout  # [ape]
    assert done.stdout.count("not certified: 2 of ") == 1, done.stdout  # [bee]


@pytest.fixture
def cut_short(tmp_path: Path) -> None:
    """Copy certifies_cut_short.py to test_mine.py."""
    shutil.copy(PROGRAMS / "certifies_cut_short.py", tmp_path / "test_mine.py")


@pytest.mark.usefixtures("cut_short")
@pytest.mark.parametrize("act", ["_exit", "exit in C", "exec"])
def test_a_run_whose_process_ends_early_is_no_success(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACT", act)
    done = run_kit(tmp_path, "test_mine.py", kit=KIT[2:])
    assert done.returncode == 1, done.stdout
    message = "not certified: the run was cut short: the process that runs the tests ended with"
    assert message in done.stdout
    assert "test_mine.py::TestMine::test_a_process_is_alive_until_it_has_ended" in done.stdout


@pytest.mark.usefixtures("cut_short")
def test_a_run_that_pytest_ends_early_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACT", "pytest.exit")
    done = run_kit(tmp_path, "test_mine.py", kit=KIT[2:])
    assert done.returncode == 1
    assert "not certified: the run was cut short; " in done.stdout


@pytest.mark.usefixtures("cut_short")
def test_signals_reach_the_process_that_runs_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent passes them on, and exits with the same status."""
    monkeypatch.setenv("ACT", "sleep")
    command = [sys.executable, "-m", "pytest", *KIT[2:], "--rootdir", str(tmp_path), "test_mine.py"]
    for number, status in ((signal.SIGINT, 2), (signal.SIGTERM, 128 + signal.SIGTERM)):
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        wait_until((tmp_path / "begun").exists, "the tests have not started")
        (tmp_path / "begun").unlink()
        run.send_signal(number)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == status, output
        assert "not certified: " in output


def test_interrupts_reach_ranks_although_the_shell_ignores_them(tmp_path: Path) -> None:
    command = f"trap '' INT; exec {sys.executable} -m pytest {' '.join(KIT)} --rootdir {tmp_path} "
    chosen = "--procession-backend spawn -k 'rank_fault and SIGINT'"
    done = subprocess.run(
        command + chosen, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert "1 passed" in done.stdout, done.stdout


def test_an_expected_failure_must_name_a_test() -> None:
    with pytest.raises(TypeError, match="there is no test 'test_nonsense"):
        type("Wrong", (BackendConformance,), {"expected_failures": {"test_nonsense[a]": "why"}})


def test_the_kit_refuses_unknown_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        __import__("procession.testing").testing.nonsense  # noqa: B018


@pytest.mark.parametrize(("factor", "waited"), [(None, 2.0), ("", 2.0), ("1.5", 3.0)])
def test_times_are_scaled_for_a_slow_machine(
    factor: str | None, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROCESSION_TEST_PATIENCE", raising=False)
    if factor is not None:
        monkeypatch.setenv("PROCESSION_TEST_PATIENCE", factor)
    assert patience(2) == waited
