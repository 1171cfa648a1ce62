"""A launch starts whole or not at all, wherever it fails, and whoever interrupts it.

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
from procession._forkserver import client
from procession._linux import fds, messages, syscalls
from procession._supervise import supervisor
from procession.testing.times import patience
from scripts import execute

pytestmark = pytest.mark.faults

RANKS = 3

STEPS: dict[str, list[tuple[Any, str]]] = {
    "fork": [(os, "fork"), (fds, "open_channel_pair"), (syscalls, "pidfd_open")],
    "spawn": [(subprocess, "Popen"), (fds, "open_channel_pair"), (syscalls, "pidfd_open")],
    "forkserver": [(fds, "open_channel_pair"), (messages, "send"), (messages, "receive")],
}
"""What a start method calls to start ranks, and what can fail for want of processes or descriptors."""

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
        before = set(_children())
        with pytest.raises(OSError, match="Too many open files"):
            start_processes(ranks.work, nprocs=RANKS, start_method=method)
        assert set(_children()) <= before
    monkeypatch.undo()
    assert run(ranks.give, nprocs=RANKS, start_method=method) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_server_that_cannot_fork_the_next_rank(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks_fork.py").write_text(
        "import os\n"
        "real, calls = os.fork, []\n"
        "def fork():\n"
        "    calls.append(1)\n"
        f"    if len(calls) == {failing}:\n"
        "        raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    return real()\n"
        "os.fork = fork\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"preload": ["breaks_fork"]}
    with pytest.raises(BlockingIOError) as caught:
        start_processes(ranks.work, nprocs=RANKS, start_method="forkserver", options=options)
    told = "\n".join([str(caught.value), *ranks.notes_on(caught.value)])
    assert f"while starting rank {failing - 1} of {RANKS}" in told
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
    server = next(reversed(client._servers.values())).process
    assert server is not None
    server.kill()
    server.join()
    assert run(ranks.give, nprocs=2, start_method="forkserver") == [(0,), (1,)]


@pytest.mark.parametrize("fails", [False, True])
def test_ranks_outlive_a_server_that_is_killed(fails: bool, tmp_path: Path) -> None:
    """They are guarded by the caller; their exit codes come from the kernel where it tells them."""
    text = """
        import os, sys, time
        from procession import ProcessException, start_processes
        from procession._forkserver import client

        def work(rank, folder):
            open(f"{folder}/ready {rank}", "w").close()
            while not os.path.exists(f"{folder}/go"):
                time.sleep(0.001)
            if sys.argv[2] == "True" and rank == 1:
                raise ValueError("after the server's end")
            return rank

        if __name__ == "__main__":
            folder = sys.argv[1]
            context = start_processes(
                work, (folder,), 2, join=False, collect_results=True, start_method="forkserver"
            )
            while not all(os.path.exists(f"{folder}/ready {rank}") for rank in range(2)):
                time.sleep(0.001)
            (server,) = client._servers.values()
            server.process.kill()
            server.process.join()
            open(f"{folder}/go", "w").close()
            try:
                print(context.results())
            except ProcessException as error:
                print(error.error_index, "after the server's end" in str(error))
        """
    told = execute(tmp_path, text, str(tmp_path), str(fails))
    assert told == ("1 True\n" if fails else "[0, 1]\n")


def test_a_server_killed_while_it_starts_ranks_leaves_none(tmp_path: Path) -> None:
    """A rank that its launcher has not got hold of never begins, and ends."""
    (tmp_path / "dies_in_fork.py").write_text(
        "import os\n"
        "real, calls = os.fork, []\n"
        "def fork():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    pid = real()\n"
        f"    if pid: open({str(tmp_path / 'pids')!r}, 'a').write(f'{{pid}}\\n')\n"
        "    return pid\n"
        "os.fork = fork\n"
    )
    text = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from procession import start_processes

        def work(rank):
            open({str(tmp_path / "begun")!r}, "w").close()

        if __name__ == "__main__":
            try:
                start_processes(
                    work, nprocs=4, start_method="forkserver", options={{"preload": ["dies_in_fork"]}}
                )
            except ChildProcessError as error:
                print("ended with exit code -9" in str(error))
        """
    assert execute(tmp_path, text) == "True\n"
    assert not (tmp_path / "begun").exists()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert pids
    until = time.monotonic() + patience(5)
    while [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < until
        time.sleep(0.002)


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found
