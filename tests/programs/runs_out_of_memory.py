"""A launch in a cgroup with a limit, whose rank 1 takes memory until the kernel kills it.

Usage: runs_out_of_memory.py START_METHOD PROCS, where PROCS is the file that puts processes into the cgroup.

Prints the failed rank with its signal, and the evidence.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from procession import ProcessExitedException, start_processes


def hoard(rank: int) -> None:
    if rank == 1:
        kept = []
        while True:
            kept.append(bytes(bytearray(1 << 20)))
    time.sleep(60)


def main(start_method: str, procs: str) -> None:
    Path(procs).write_text(str(os.getpid()))
    try:
        start_processes(hoard, nprocs=2, start_method=start_method)
    except ProcessExitedException as error:
        print(error.error_index, error.failures[0].signal_name)
        print(error.failures[0].evidence)


if __name__ == "__main__":
    main(*sys.argv[1:])
