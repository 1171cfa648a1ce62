"""A launch starts all ranks or none, wherever its start fails or is interrupted.

Promise: All ranks start, or none.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import run, start_processes
from procession._linux import fds, messages, syscalls
from procession._supervise import supervisor
from procession.testing.introspect import list_children, list_servers
from procession.testing.times import patience
from scripts import PROGRAMS, run_program

pytestmark = pytest.mark.faults

RANKS = 3

STEPS: dict[str, list[tuple[Any, str]]] = {
    "fork": [(os, "fork"), (fds, "open_channel_pair"), (syscalls, "pidfd_open")],
    "spawn": [(subprocess, "Popen"), (fds, "open_channel_pair"), (syscalls, "pidfd_open")],
    "forkserver": [(fds, "open_channel_pair"), (messages, "send"), (messages, "receive")],
}
"""What a start method calls to start ranks, and what fails where processes or descriptors run out."""

CASES = [(method, step) for method, steps in STEPS.items() for step in range(len(steps))]


class Injection:
    """Makes the Nth call of a function fail."""

    def __init__(self, real: Callable[..., Any], failing: int | None = None) -> None:
        self.real, self.failing, self.calls = real, failing, 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        if self.calls == self.failing:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.real(*arguments, **keywords)


@pytest.mark.parametrize(
    ("method", "step"), CASES, ids=[f"{method}-{STEPS[method][step][1]}" for method, step in CASES]
)
def test_failing_at_every_call_of_a_step(
    method: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = STEPS[method][step]
    real = getattr(owner, name)
    start_processes(ranks.nothing, start_method=method)
    count = Injection(real)
    monkeypatch.setattr(owner, name, count)
    start_processes(ranks.nothing, nprocs=RANKS, start_method=method)
    assert count.calls > 0
    for failing in range(1, count.calls + 1):
        monkeypatch.setattr(owner, name, Injection(real, failing))
        before = set(list_children(os.getpid()))
        with pytest.raises(OSError, match="Too many open files"):
            start_processes(ranks.work, nprocs=RANKS, start_method=method)
        assert set(list_children(os.getpid())) <= before
    monkeypatch.undo()
    assert run(ranks.give, nprocs=RANKS, start_method=method) == [(0,), (1,), (2,)]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, no_servers: None) -> None:
    """Let new forkservers import from the folder of programs."""
    monkeypatch.syspath_prepend(str(PROGRAMS))


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_server_that_cannot_fork_the_next_rank_ends_the_others(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTY_FORK", f"fails {failing}")
    options = {"preload": ["faulty_fork"]}
    with pytest.raises(BlockingIOError) as caught:
        start_processes(ranks.work, nprocs=RANKS, start_method="forkserver", options=options)
    text = "\n".join([str(caught.value), *ranks.notes_on(caught.value)])
    assert f"while starting rank {failing - 1} of {RANKS}" in text
    # the same server serves the next launch
    assert len(run(ranks.give, nprocs=2, start_method="forkserver", options=options)) == 2


def test_a_context_that_cannot_be_made_leaves_no_rank(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(supervisor, "make_waiter", fail)
    with pytest.raises(OSError, match="Too many open files"):
        start_processes(ranks.work, nprocs=RANKS, start_method=start_method)


@pytest.mark.parametrize("during", range(1, RANKS + 1))
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_an_interrupt_while_a_rank_is_started(
    start_method: str, during: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = syscalls.pidfd_open
    pids: list[int] = []

    def interrupted(pid: int) -> int:
        pids.append(pid)
        if len(pids) == during:
            signal.raise_signal(signal.SIGINT)
        return real(pid)

    start_processes(ranks.nothing, start_method=start_method)
    monkeypatch.setattr(syscalls, "pidfd_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_processes(ranks.work, nprocs=RANKS, start_method=start_method)
    # between forks the kernel holds interrupts back: one may be seen a few ranks later
    assert during <= len(pids) <= (RANKS if start_method == "fork" else during)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_an_interrupt_that_a_handler_takes_stops_no_launch(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = syscalls.pidfd_open
    taken: list[int] = []

    def interrupted(pid: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return real(pid)

    run(ranks.give, start_method=start_method)
    monkeypatch.setattr(syscalls, "pidfd_open", interrupted)
    before = signal.signal(signal.SIGINT, lambda number, _: taken.append(number))
    try:
        assert run(ranks.give, nprocs=RANKS, start_method=start_method) == [(0,), (1,), (2,)]
    finally:
        signal.signal(signal.SIGINT, before)
    # between forks the kernel holds interrupts back, and makes one of several
    expected = range(1, RANKS + 1) if start_method == "fork" else [RANKS]
    assert taken
    assert set(taken) == {signal.SIGINT}
    assert len(taken) in expected


def test_an_interrupt_while_a_server_starts_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = messages.receive
    start_processes(ranks.nothing, start_method="forkserver")

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(messages, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_processes(ranks.work, nprocs=RANKS, start_method="forkserver")
    monkeypatch.undo()
    assert run(ranks.give, start_method="forkserver") == [(0,)]


def test_a_server_killed_between_launches_is_replaced() -> None:
    assert run(ranks.give, start_method="forkserver") == [(0,)]
    server = list_servers()[-1].process
    assert server is not None
    server.kill()
    server.join()
    assert run(ranks.give, nprocs=2, start_method="forkserver") == [(0,), (1,)]


@pytest.mark.parametrize("how", ["returns", "fails"])
def test_ranks_outlive_a_server_that_is_killed(how: str, tmp_path: Path) -> None:
    """The death pipe of their caller guards them; their exit codes come from the kernel, if it keeps them."""
    printed = run_program("kills_its_server.py", str(tmp_path), how).stdout
    assert printed == ("1 True\n" if how == "fails" else "[0, 1]\n")


def test_a_server_killed_while_it_starts_ranks_leaves_none(tmp_path: Path) -> None:
    """A rank of which its caller has no handle never begins, and ends."""
    begun, noted = tmp_path / "begun", tmp_path / "pids"
    env = {**os.environ, "FAULTY_FORK": "kills 3", "NOTED_PIDS": str(noted)}
    done = run_program("server_dies_while_it_forks.py", str(begun), env=env)
    assert done.stdout == "True\n"
    assert not begun.exists()
    pids = [int(line) for line in noted.read_text().split()]
    assert pids
    until = time.monotonic() + patience(5)
    while [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < until
        time.sleep(0.002)
