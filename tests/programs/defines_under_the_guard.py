"""Launches a function that is defined under the guard.  Argument: the start method."""

from __future__ import annotations

import sys

from procession import run

if __name__ == "__main__":

    def work(rank: int) -> int:
        return rank

    run(work, nprocs=2, start_method=sys.argv[1])
