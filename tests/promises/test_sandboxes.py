"""Where a sandbox (seccomp) forbids system calls, launches do without them, or say why they cannot."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import forbidding
from procession import run, start_processes
from procession.testing.scratch import Stage, is_gone
from procession.testing.subject import wait_until
from scripts import run_program

pytestmark = pytest.mark.skipif(
    not forbidding.NUMBERS, reason="the numbers of system calls are not known here"
)


@pytest.mark.parametrize("code", ["ENOSYS", "EPERM"])
def test_large_values_travel_without_memfd_create(start_method: str, code: str) -> None:
    assert run_program("without_memfd_create.py", start_method, code).stdout == "True\n"


def test_without_any_file_the_error_says_why() -> None:
    printed = run_program("without_any_file.py").stdout
    assert "cannot create a file in memory (memfd_create: Operation not permitted)" in printed


def test_without_pidfds_what_ranks_start_ends_with_them(start_method: str, tmp_path: Path) -> None:
    assert run_program("without_pidfd_open.py", start_method, str(tmp_path)).stdout == "True\n"
    pids = Stage(str(tmp_path), 60).noted()
    assert len(pids) == 6
    wait_until(lambda: all(map(is_gone, pids)) or None, "what ranks have started runs on")


def test_without_pidfds_what_a_rank_leaves_in_its_group_ends(start_method: str) -> None:
    done = run_program("leaves_programs_without_pidfd_open.py", start_method)
    left, daemon = map(int, done.stdout.split())
    assert is_gone(left)
    assert not is_gone(daemon)
    os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("env", [{"NAME": "\ud800"}, {"\udfff": "value"}])
def test_the_error_names_a_lone_surrogate_in_env(start_method: str, env: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"env has text that cannot be encoded: '.*\\ud"):
        start_processes(abs, nprocs=2, start_method=start_method, env=env)


def test_ranks_get_what_the_environment_itself_escapes(start_method: str) -> None:
    assert run(get_name, start_method=start_method, env={"NAME": "\udcff"}) == ["\udcff"]


def get_name(rank: int) -> str:
    return os.environ["NAME"]
