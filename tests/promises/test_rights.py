"""Ranks have no more rights than their caller has at the call, and its settings of that moment.

Promise: Ranks have no more rights than their caller.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from procession.testing.scratch import state_of
from procession.testing.times import patience
from scripts import PROGRAMS, environment_of_program, run_program

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights")

SAME = "{}\n{}\n"
"""What the program prints if neither of two ranks differs from its caller."""


@pytest.mark.parametrize(
    "change",
    [
        *("umask", "soft limit", "hard limit", "no core", "nice", "cpus", "policy", "folder"),
        "no new privileges",
    ],
)
def test_ranks_have_the_settings_that_their_caller_has_changed(
    start_method: str, change: str
) -> None:
    assert run_program("compares_rights.py", start_method, change).stdout == SAME


@needs_root
@pytest.mark.parametrize("change", ["groups", "gid", "effective gid", "capability", "bounding set"])
def test_ranks_lack_the_rights_that_their_caller_has_dropped(
    start_method: str, change: str
) -> None:
    if start_method != "fork" and change in ("bounding set", "effective gid"):
        pytest.skip("exec changes them again (execve(2), capabilities(7))")
    assert run_program("compares_rights.py", start_method, change).stdout == SAME


@needs_root
def test_ranks_have_the_user_that_their_caller_has_become(start_method: str) -> None:
    if start_method != "fork" and not can_nobody_run_python():
        pytest.skip("only root may run this interpreter, or read these tests")
    assert run_program("compares_rights.py", start_method, "user").stdout == SAME


@needs_root
def test_ranks_run_in_a_folder_that_their_caller_may_no_longer_enter(
    start_method: str, tmp_path: Path
) -> None:
    if start_method != "fork" and not can_nobody_run_python():
        pytest.skip("only root may run this interpreter, or read these tests")
    folder = tmp_path / "closed"
    folder.mkdir(0o700)
    done = run_program("compares_rights.py", start_method, "user", str(folder))
    assert done.stdout == SAME


def can_nobody_run_python() -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import procession, rights"],
            env=environment_of_program(),
            user=65534,
            cwd="/",
        )
    except OSError:
        return False
    return done.returncode == 0


def test_settings_that_ranks_can_copy_need_no_new_server() -> None:
    done = run_program("changes_between_launches.py", "change_what_ranks_can_copy")
    assert done.stdout == "True\n"


@needs_root
def test_settings_that_ranks_cannot_copy_need_a_new_server() -> None:
    done = run_program("changes_between_launches.py", "change_what_ranks_cannot_copy")
    assert done.stdout == "True\nFalse\n"


def test_an_idle_server_with_other_rights_ends_and_a_busy_one_serves_on(tmp_path: Path) -> None:
    path = str(tmp_path / "go")
    done = run_program("changes_between_launches.py", "drop_rights", path)
    assert done.stdout == "True True\nserved to the end\n"


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_no_later_process_has_a_variable_that_was_removed(start_method: str, how: str) -> None:
    done = run_program("removes_a_variable.py", start_method, how)
    assert done.stdout == "True\n[False, False] 2\nFalse\n"


def test_a_server_serves_on_as_variables_come_and_change() -> None:
    done = run_program("changes_between_launches.py", "change_variables")
    assert done.stdout == "1\n2\n"


@needs_root
@pytest.mark.parametrize("end", ["by the reaper as well", "alone"])
def test_ranks_end_with_a_caller_that_was_root_at_first(end: str) -> None:
    """The reaper still is root's.  So is the first death pipe, which ranks of another user cannot open."""
    alone = end == "alone"
    with start_program("user", "fork", *(["keep daemons"] if alone else [])) as caller:
        assert caller.stdout is not None
        ranks, others = zip(*(caller.stdout.readline().split() for _ in range(3)), strict=True)
        caller.send_signal(signal.SIGKILL)
    await_ends([*map(int, ranks)] if alone else [*map(int, ranks + others)])
    for pid in others if alone else ():
        os.kill(int(pid), signal.SIGKILL)


@needs_root
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_what_ranks_start_ends_where_the_effective_user_is_another(
    start_method: str, end: str
) -> None:
    how = "effective user" if start_method == "fork" else "effective group"
    with start_program(how, start_method) as caller:
        assert caller.stdout is not None
        assert caller.stdin is not None
        pids = [int(pid) for _ in range(2) for pid in caller.stdout.readline().split()]
        if end == "stopped":
            caller.stdin.write("stop\n")
            caller.stdin.flush()
            await_ends(pids)
        caller.kill()
    await_ends(pids)


def start_program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / "launches_as_another_user.py"), *arguments],
        env=environment_of_program(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def await_ends(pids: list[int]) -> None:
    until = time.monotonic() + patience(5)
    while left := [pid for pid in pids if state_of(pid) not in "XZ"]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"still running: {left}")
        time.sleep(0.01)


@needs_root
@pytest.mark.parametrize(
    ("name", "flag"),
    [("uts", "4000000"), ("ipc", "8000000"), ("cgroup", "2000000"), ("net", "40000000")],
)
def test_ranks_are_in_the_namespaces_of_their_caller(
    start_method: str, name: str, flag: str
) -> None:
    assert run_program("enters_a_namespace.py", start_method, name, flag).stdout == "True\nTrue\n"
