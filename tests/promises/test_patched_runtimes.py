"""Launches work in processes that gevent or eventlet has patched, from any greenlet or thread.

Promise: Launches do not disturb each other.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

import procession
from scripts import run_program

if find_spec("gevent") is None:  # imported here, it would follow each fork to come
    pytest.skip("could not import 'gevent' (pip install gevent)", allow_module_level=True)

GEVENT = "runs_under_gevent.py"


@pytest.mark.parametrize(
    ("order", "place"),
    [("first", "main"), ("first", "greenlet"), ("later", "thread"), ("first", "pool")],
)
def test_launches_have_their_results_causes_and_deadlines(
    start_method: str, order: str, place: str
) -> None:
    """Patched before or after the import; from greenlets and from a thread that is one."""
    done = run_program(GEVENT, start_method, order, "launch_in", place)
    assert done.stdout.splitlines() == [
        "[0, 1] [[0, 1], [0, 1]]",
        "as asked / signal SIGKILL / exit code 7",
        "ProcessTimeoutError",
        "[] []",
    ]


def test_other_greenlets_run_while_one_waits(start_method: str, tmp_path: Path) -> None:
    """The ranks wait for what another greenlet does; several greenlets wait for one launch."""
    cue = str(tmp_path / "cue")
    done = run_program(GEVENT, start_method, "first", "wait_in_greenlets", cue)
    assert done.stdout == "[True, True, True, None] [0, 1]\n"


def test_a_wait_can_be_stopped(start_method: str) -> None:
    """By Ctrl-C, by a timeout of gevent's, by the end of the greenlet."""
    done = run_program(GEVENT, start_method, "first", "stop_waiting")
    assert done.stdout.splitlines() == [
        "interrupted []",
        "timed out []",
        "killed False",
        "ended [-15, -15]",
        "left []",
    ]


def test_ranks_run_greenlets_threads_and_programs(start_method: str) -> None:
    """And none of their caller's greenlets."""
    done = run_program(GEVENT, start_method, "first", "run_greenlets_in_ranks")
    lines = ["last", "[([0, 1, 2], b'hi\\n', False)]", "-15"]
    assert done.stdout.splitlines() == [*lines, *lines, "True"]


def test_ranks_of_a_command_run() -> None:
    """Their agents report to a socket of the caller."""
    done = run_program(GEVENT, "command", "first", "launch_by_command")
    assert done.stdout == "[0]\nTrue\n"


def test_a_process_may_fork_while_a_greenlet_waits(start_method: str, tmp_path: Path) -> None:
    """The copy of the greenlet that waits has no ranks, and does not keep the fork from going on."""
    cue = str(tmp_path / "cue")
    done = run_program(GEVENT, start_method, "first", "fork_while_one_waits", cue)
    assert done.stdout == "0\n[0, 1]\n"


def test_processes_without_greenlets_import_nothing_of_them(start_method: str) -> None:
    assert run_program("imports_no_greenlets.py", start_method).stdout == "[[]] []\n"


def test_launches_work_under_eventlet(tmp_path: Path) -> None:
    """By `spawn` alone: its authors advise against forks."""
    if find_spec("eventlet") is None:  # imported here, it would warn of each fork to come
        pytest.skip("could not import 'eventlet' (pip install eventlet)")
    done = run_program("runs_under_eventlet.py", str(tmp_path / "cue"))
    assert done.stdout.splitlines() == [
        "[[0, 1], [0, 1]]",
        "ProcessRaisedException True",
        "ProcessTimeoutError False",
    ]


BLOCKING = {
    *("os.close", "os.read", "os.waitpid", "os.posix_spawn", "os.fork", "time.sleep"),
    *("import socket", "import select", "threading.Lock", "threading.RLock"),
}
"""What gevent or eventlet replaces, and `procession._python.unpatched` keeps."""

EXEMPT = (
    "cli/",
    "remote/",  # its threads and sockets are no part of a launch on this host
    "testing/",
    "_rank/",  # it imports less
    "_cleanup/leave_launch.py",  # in a process that a plugin starts
    "_cleanup/reaper.py",  # a process without user code
    "_forkserver/client.py",  # its locks are never held across a switch
    "_linux/memory.py",  # regular files are closed at once
    "_python/fd_numbers.py",  # in a rank
    "_python/greenlets.py",  # it means the patched ones
    "_python/unpatched.py",
)
"""Rooms and modules that may use these."""


def test_no_module_uses_what_is_patched() -> None:
    """They use `procession._python.unpatched` instead."""
    package = Path(procession.__file__).parent
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    found = [
        f"{name}: {ast.unparse(node)}"
        for name, path in paths.items()
        if not name.startswith(EXEMPT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if ast.unparse(node) in BLOCKING
    ]
    assert "_supervise/supervisor.py" in paths
    assert not found
