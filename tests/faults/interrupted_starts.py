"""One Ctrl-C at every line of a start: KeyboardInterrupt, and no rank or other process is left.

``nox -s surroundings`` runs this file, in a process of its own: what is interrupted between two lines of a
library may leave a lock held.
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
from procession._cleanup.marks import list_children
from procession._forkserver import client
from procession.testing.times import patience

pytestmark = pytest.mark.faults

HERE = os.path.dirname(procession.__file__)
NPROCS = 2
PATIENCE = patience(5)


def sleep(rank: int) -> None:
    time.sleep(60)


class Interrupter:
    """Raises SIGINT at one line of the library's, the ``at``-th that this process comes to; 0: none."""

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
    servers = [*client._servers.values(), *client._retired]
    known = {one.process.pid for one in servers if one.process is not None}
    return set(list_children(os.getpid())) - known


def await_end(before: set[int]) -> list[int]:
    """Return the children that there are beyond those, once there are none or after a time."""
    until = time.monotonic() + PATIENCE
    while (left := list_left() - before) and time.monotonic() < until:
        time.sleep(0.005)
    return sorted(left)


@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")  # of such files
@pytest.mark.leaves_things  # a descriptor that was being made as the interrupt came has no owner yet
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
"""Of how many lines one is interrupted; 1 interrupts each, which takes minutes."""
