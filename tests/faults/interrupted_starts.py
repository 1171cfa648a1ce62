"""After one Ctrl-C at any line of a start the caller gets KeyboardInterrupt, and no process is left.

``nox -s surroundings`` runs this file, and nothing else in the same process: a library that is interrupted
between two lines may leave a lock held.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

import pytest

import procession
from procession import start_processes
from procession.testing.introspect import list_children, list_servers
from procession.testing.times import patience

pytestmark = pytest.mark.faults

HERE = os.path.dirname(procession.__file__)
NPROCS = 2
PATIENCE = patience(5)


def sleep(rank: int) -> None:
    time.sleep(60)


class Interrupter:
    """Raises SIGINT at the ``at``-th line of the library that this process comes to; 0: at none."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.where = at, 0, ""
        self._owner = os.getpid()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE) or os.getpid() != self._owner:
            return None
        if event in ("call", "line"):
            self.seen += 1
            if self.seen == self.at:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self


def start(start_method: str, at: int) -> tuple[Interrupter, bool]:
    """Start ranks, and end them; return where that was interrupted, and whether the caller learned of it."""
    interrupter = Interrupter(at)
    sys.settrace(interrupter)
    try:
        context = start_processes(sleep, nprocs=NPROCS, join=False, start_method=start_method)
    except KeyboardInterrupt:
        return interrupter, True
    finally:
        sys.settrace(None)
    context.terminate(grace_period=0)
    return interrupter, False


def list_left() -> set[int]:
    """Return this process's children but for its forkservers, which may have been replaced."""
    known = {server.process.pid for server in list_servers() if server.process is not None}
    return set(list_children(os.getpid())) - known


def await_end(before: set[int]) -> list[int]:
    """Wait until this process has no more children than before; return the others after `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    while (left := list_left() - before) and time.monotonic() < until:
        time.sleep(0.005)
    return sorted(left)


@pytest.mark.filterwarnings(
    "ignore:.*:pytest.PytestUnraisableExceptionWarning"
)  # of files left open
@pytest.mark.leaves_things  # a descriptor just made, when the interrupt comes, has no owner yet
@pytest.mark.parametrize("part", range(4))
def test_an_interrupt_at_every_line_of_a_start(start_method: str, part: int) -> None:
    start(start_method, 0)
    lines = start(start_method, 0)[0].seen
    before = list_left()
    for at in range(1 + part, lines + 1, 4 * STEP):
        interrupter, raised = start(start_method, at)
        assert raised or interrupter.seen < at, interrupter.where
        assert await_end(before) == [], interrupter.where


STEP = int(os.environ.get("PROCESSION_TEST_EVERY", "7"))
"""Every how many lines an interrupt comes; 1, at each line, takes minutes."""
