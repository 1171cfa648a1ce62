"""Launches a rank that creates shared memory, prints its name and fails.  Argument: the start method."""

from __future__ import annotations

import sys
from multiprocessing import shared_memory

from procession import ProcessException, start_processes


def leave(rank: int) -> None:
    memory = shared_memory.SharedMemory(create=True, size=10)
    print(memory.name, flush=True)
    raise ValueError("boom")


if __name__ == "__main__":
    try:
        start_processes(leave, start_method=sys.argv[1])
    except ProcessException:
        pass
