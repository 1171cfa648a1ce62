"""Launches in a signal handler that comes at one line after another of another launch; prints ``done``.

Usage: launches_in_signal_handlers.py START_METHOD
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from types import FrameType
from typing import Any

import procession

TRACED = ("client.py", "forkserver.py", "fds.py", "fork.py", "starting.py")
"""The modules of the library whose lines are interrupted."""

SAMPLES = 25
"""About how many of those lines are interrupted."""


def work(rank: int) -> int:
    return rank


def launch() -> list[int]:
    return procession.run(work, (), 1, start_method=sys.argv[1], timeout=30)


class Interrupter:
    """Counts the lines that this process comes to, and raises SIGUSR1 at the ``at``-th; 0: at none."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0
        self._owner = os.getpid()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        name = os.path.basename(frame.f_code.co_filename)
        if os.getpid() != self._owner or name not in TRACED:
            return None
        self.seen += 1
        if self.seen == self.at:
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)
        return self


def count_lines(at: int = 0) -> int:
    """Launch, with a signal at one line; return the number of lines before it, or of all."""
    interrupter = Interrupter(at)
    sys.settrace(interrupter)
    assert launch() == [0]
    sys.settrace(None)
    return interrupter.seen


def main() -> None:
    inner: list[list[int]] = []
    faulthandler.dump_traceback_later(55, exit=True)
    signal.signal(signal.SIGUSR1, lambda *_: inner.append(launch()))
    count_lines()
    lines = count_lines()
    for line in range(1, lines, max(lines // SAMPLES, 1)):
        count_lines(line)
    assert len(inner) >= 20, inner
    assert all(one == [0] for one in inner), inner
    print("done")


if __name__ == "__main__":
    main()
