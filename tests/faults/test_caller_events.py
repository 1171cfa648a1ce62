"""Ranks, and what they started, end with their caller, however it ends.

Promises: An interrupt is orderly; Ranks end with their caller.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callers import GRACE, Caller
from procession.testing.scratch import state_of
from procession.testing.times import patience
from scripts import run_program

pytestmark = pytest.mark.faults

HOWS = ("plain", "stubborn", "catching", "in C", "thread", "descendants")
MakeCaller = Callable[..., Caller]


@pytest.fixture
def callers(tmp_path: Path, start_method: str) -> Iterator[MakeCaller]:
    """Make callers, and end them after the test."""
    made: list[Caller] = []

    def make(how: str = "plain", **options: Any) -> Caller:
        made.append(Caller(tmp_path, start_method, how, **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", HOWS)
def test_all_ends_with_the_caller(callers: MakeCaller, how: str, number: int) -> None:
    caller = callers(how)
    caller.await_ranks()
    caller.process.send_signal(number)
    caller.assert_gone()


@pytest.mark.parametrize("how", ["plain", "descendants"])
def test_all_ends_with_a_caller_that_ignores_what_shells_ignore(
    callers: MakeCaller, how: str
) -> None:
    """As ``command &`` in a script and nohup do."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    caller = callers(how, preexec_fn=ignore)
    caller.await_ranks()
    caller.process.kill()
    caller.assert_gone()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1])
def test_a_caller_that_dies_while_it_starts_leaves_nothing(
    callers: MakeCaller, delay: float
) -> None:
    """At any moment: each delay, in seconds, begins with the first process that the caller starts."""
    caller = callers("descendants")
    until = time.monotonic() + 10
    while not _has_children(caller.process.pid) and time.monotonic() < until:
        time.sleep(0.0005)
    time.sleep(delay)
    group = [caller.process.pid, *_descend(caller.process.pid)]
    caller.process.kill()
    until = time.monotonic() + patience(2)
    while [pid for pid in group[1:] if state_of(pid) not in "XZ"]:
        assert time.monotonic() < until
        time.sleep(0.002)
    caller.assert_gone()


def test_daemons_can_be_kept(callers: MakeCaller) -> None:
    caller = callers("keeps daemons")
    ranks = caller.await_ranks()
    caller.process.kill()
    until = time.monotonic() + patience(2)
    while [pid for pid in ranks if state_of(pid) not in "XZ"]:
        assert time.monotonic() < until
        time.sleep(0.002)
    kept = [pid for pid in caller.noted() if pid not in ranks and state_of(pid) not in "XZ"]
    assert len([pid for pid in kept if _group_of(pid) not in (None, *ranks)]) == 2


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:  # it has ended, as a child of a rank does unless it is a daemon
        return None


def test_all_ends_with_a_caller_that_is_killed_while_it_exits(callers: MakeCaller) -> None:
    caller = callers("leaving")
    caller.await_ranks()
    caller.process.kill()
    caller.assert_gone()


def test_an_interrupt_to_the_caller_ends_ranks_in_order(callers: MakeCaller) -> None:
    caller = callers("cleaning")
    caller.await_ranks()
    caller.process.send_signal(signal.SIGINT)
    _, errors = caller.process.communicate(timeout=20)
    assert caller.process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    caller.assert_gone()
    assert (caller.folder / "cleaned 0").exists()
    assert (caller.folder / "cleaned 1").exists()


def test_a_second_interrupt_ends_ranks_at_once(callers: MakeCaller) -> None:
    caller = callers("noting")
    caller.await_ranks()
    caller.process.send_signal(signal.SIGINT)
    caller.await_cue("interrupted 0")
    caller.await_cue("interrupted 1")
    begun = time.monotonic()
    caller.process.send_signal(signal.SIGINT)
    caller.process.communicate(timeout=20)
    assert time.monotonic() - begun < GRACE - 0.5
    caller.assert_gone()


@pytest.mark.parametrize("how", ["stubborn", "in C"])
def test_an_interrupt_that_ranks_ignore_ends_them_after_the_grace_period(
    callers: MakeCaller, how: str
) -> None:
    caller = callers(how)
    caller.await_ranks()
    caller.process.send_signal(signal.SIGINT)
    caller.process.communicate(timeout=20)
    assert caller.process.returncode == -signal.SIGINT
    caller.assert_gone()


class Terminal:
    """A terminal for a caller, which leads the session of the terminal."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()

    def options(self) -> dict[str, Any]:
        """Return the arguments of `subprocess.Popen` that put a caller into the terminal."""
        files = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        return {**files, "preexec_fn": self._become_controlling, "start_new_session": True}

    def type(self, text: bytes) -> None:
        """Type something; 3 is Ctrl-C."""
        os.write(self.ours, text)

    def close(self) -> None:
        """Close it, as its window does."""
        os.close(self.ours)

    def _become_controlling(self) -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A new terminal."""
    one = Terminal()
    yield one
    os.close(one.theirs)
    try:
        one.close()
    except OSError:  # the test has closed it
        pass


def test_an_interrupt_is_orderly_also_before_ranks_are_waited_for(
    start_method: str, tmp_path: Path
) -> None:
    """Here, while the caller imports what it needs to wait."""
    done = run_program("interrupted_while_it_imports.py", str(tmp_path), start_method, check=False)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert all((tmp_path / f"cleaned {rank}").exists() for rank in range(2)), done.stderr


def test_ctrl_c_once_is_orderly(callers: MakeCaller, terminal: Terminal) -> None:
    caller = callers("cleaning", **terminal.options())
    caller.await_ranks()
    terminal.type(b"\3")
    assert _wait(caller) == -signal.SIGINT
    caller.assert_gone()
    assert (caller.folder / "cleaned 0").exists()
    assert (caller.folder / "cleaned 1").exists()


@pytest.mark.parametrize("how", ["noting", "descendants"])
def test_ctrl_c_twice_is_at_once(callers: MakeCaller, terminal: Terminal, how: str) -> None:
    caller = callers(how, **terminal.options())
    caller.await_ranks()
    terminal.type(b"\3")
    if how == "noting":
        caller.await_cue("interrupted 0")
        caller.await_cue("interrupted 1")
    begun = time.monotonic()
    while caller.process.poll() is None and time.monotonic() - begun < GRACE:
        terminal.type(b"\3")  # again, in case the caller has not noticed the first one yet
        time.sleep(0.2)
    assert _wait(caller) == -signal.SIGINT
    assert time.monotonic() - begun < GRACE - 0.5
    caller.assert_gone()


def test_a_closed_terminal_ends_all(callers: MakeCaller, terminal: Terminal) -> None:
    caller = callers("descendants", **terminal.options())
    caller.await_ranks()
    terminal.close()
    caller.assert_gone()


def _wait(caller: Caller) -> int:
    return caller.process.wait(timeout=20)


def _has_children(pid: int) -> bool:
    return bool(_children(pid))


def _children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(one) for one in done.stdout.split()]


def _descend(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [child, *_descend(child)]
    return found
