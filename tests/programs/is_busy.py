"""Ranks that compute for 1.5 s, for a profiler.  Argument: the start method."""

from __future__ import annotations

import sys
import time

from procession import start_processes


def work(rank: int) -> None:
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pass


if __name__ == "__main__":
    start_processes(work, nprocs=2, start_method=sys.argv[1])
