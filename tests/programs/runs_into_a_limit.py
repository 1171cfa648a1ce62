"""Launches under a limit that is too low for 300 ranks; prints the error, and how many children are left.

Usage: runs_into_a_limit.py START_METHOD RLIMIT_NAME VALUE
"""

from __future__ import annotations

import os
import resource
import sys
import time

from procession import start_processes

NOBODY = 65534


def nothing(rank: int) -> None:
    pass


def work(rank: int) -> None:
    time.sleep(60)


if __name__ == "__main__":
    method, name, value = sys.argv[1:]
    start_processes(nothing, start_method=method)
    if name == "RLIMIT_NPROC":  # root may exceed it
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    resource.setrlimit(getattr(resource, name), (int(value), int(value)))
    try:
        start_processes(work, nprocs=300, start_method=method)
    except OSError as error:
        print(type(error).__name__, error, *getattr(error, "__notes__", ()))
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        print("children:", len(file.read().split()))
