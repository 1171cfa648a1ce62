"""Processes that start themselves anew as long as they can.

Usage: respawns.py KIND PAUSE, where PAUSE is the seconds between the links of a chain.  Run it with ``-S``:
processes that start fast are the hard case.
"""

from __future__ import annotations

import os
import sys
import time


def chain() -> None:
    """Fork and end, again and again, in a new session each time."""
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(float(sys.argv[2]))


def supervise() -> None:
    """Start a program in a session of its own, again each time that it ends."""
    while True:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "60"])
        os.waitpid(pid, 0)


def watch_each_other() -> None:
    """Be two processes; each replaces the other one when that ends."""
    while True:
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(write)
            os.setsid()
            os.read(read, 1)  # until the parent has ended: then take its place
            os.close(read)
            continue
        os.close(read)
        try:
            os.wait()
        except ChildProcessError:
            pass
        os.close(write)


KINDS = {
    "a chain": chain,
    "a supervisor": supervise,
    "two that watch each other": watch_each_other,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
