"""Launches with too little address space for the result of rank 0, while rank 1 ignores SIGTERM.

Usage: cannot_map_result.py START_METHOD FOLDER

Prints the message of the failure, and whether rank 1 still exists afterwards.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

import standin
from procession import ProcessExitedException, run
from procession.testing.scratch import Stage

SPARE = 200 << 20
"""Bytes of address space that the caller may still use."""


def work(rank: int, folder: str) -> bytes:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    stage = Stage(folder, 60)
    if rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stage.tell("busy", str(os.getpid()))
        stage.work()
    stage.await_cue("busy")
    return b"x" * (2 * SPARE)


def main(start_method: str, folder: str) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    options = standin.options() if start_method == "command" else None
    try:
        run(work, (folder,), 2, start_method=start_method, grace_period=0.2, options=options)
    except ProcessExitedException as error:
        print(error.msg)
    print(os.path.exists("/proc/" + Stage(folder, 0).await_cue("busy")))


if __name__ == "__main__":
    main(*sys.argv[1:])
