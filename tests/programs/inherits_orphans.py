"""Launches in a process that inherits orphans: as process 1 of a namespace, or else as a subreaper.

Usage: inherits_orphans.py START_METHOD FOLDER

Prints how many of its children are zombies afterwards.
"""

from __future__ import annotations

import ctypes
import os
import sys

from procession import ProcessException, start_processes
from procession.testing.introspect import list_children
from procession.testing.scratch import state_of
from starters import fail_with, start_one

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main(start_method: str, folder: str) -> None:
    if os.getpid() != 1:
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    start_processes(start_one, ("program", folder), start_method=start_method)
    try:
        start_processes(
            fail_with, (["program", "session", "stranger"], folder), start_method=start_method
        )
    except ProcessException:
        pass
    print([state_of(pid) for pid in list_children(os.getpid())].count("Z"))


if __name__ == "__main__":
    main(*sys.argv[1:])
