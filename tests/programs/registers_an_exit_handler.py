"""Launches while an exit handler is registered and a line is buffered.  Argument: the start method."""

from __future__ import annotations

import atexit
import os
import sys

from procession import start_processes


def nothing(rank: int) -> None:
    pass


if __name__ == "__main__":
    atexit.register(lambda: print("handler", os.getpid()))
    print("buffered", end=" ")
    start_processes(nothing, nprocs=3, start_method=sys.argv[1])
