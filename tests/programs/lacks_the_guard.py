"""Launches without ``if __name__ == "__main__":``.  Argument: the start method."""

from __future__ import annotations

import sys

from procession import start_processes


def nothing(rank: int) -> None:
    pass


start_processes(nothing, nprocs=2, start_method=sys.argv[1])
