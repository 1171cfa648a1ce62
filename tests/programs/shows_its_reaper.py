"""Launches, and prints what its reaper is.

Usage: shows_its_reaper.py WHAT START_METHOD

WHAT is ``pid``; ``place`` for what the reaper holds open, its folder and its group; ``fork`` for whether a
fork starts another reaper; or ``missing`` for a launch that cannot start one.
"""

from __future__ import annotations

import os
import sys
from unittest import mock

from procession import start_processes
from procession._cleanup import reaper_client
from procession.testing.introspect import reaper_pid


def nothing(rank: int) -> None:
    pass


def show_pid(start_method: str) -> None:
    start_processes(nothing, start_method=start_method)
    print(reaper_pid())


def show_place(start_method: str) -> None:
    """Print also what comes from an inheritable pipe once this process has closed it: nothing, its end."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    start_processes(nothing, start_method=start_method)
    pid = reaper_pid()
    os.close(write)
    print(os.read(read, 1))
    print(os.readlink(f"/proc/{pid}/cwd"), os.getpgid(pid) == pid)
    print(sorted(os.listdir(f"/proc/{pid}/fd")))


def show_fork(start_method: str) -> None:
    """Print the exit status of a fork, 0 if its reaper is another one, and whether ours is still the same."""
    start_processes(nothing, start_method=start_method)
    first = reaper_pid()
    pid = os.fork()
    start_processes(nothing, start_method=start_method)
    if pid == 0:
        os._exit(reaper_pid() == first)
    print(os.waitpid(pid, 0)[1], reaper_pid() == first)


def show_missing(start_method: str) -> None:
    with mock.patch.object(reaper_client, "find_executable", return_value="/nowhere/python"):
        start_processes(nothing, start_method=start_method)
    print(reaper_pid())


SHOWS = {"pid": show_pid, "place": show_place, "fork": show_fork, "missing": show_missing}

if __name__ == "__main__":
    SHOWS[sys.argv[1]](sys.argv[2])
