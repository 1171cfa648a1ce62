"""The reaper: a process that outlives its caller by the time it takes to end what the ranks started.

The parent-death signal ends ranks when their caller is gone (`_rank.parent_death`), but not what they have
started.  The reaper's standard input is a socket on which the caller sends the marks of its launches.  When
the caller is gone, for whatever reason, the reaper ends all processes that carry one of them, then itself.
"""

from __future__ import annotations

import os
import signal

from procession._cleanup import cgroups, marks

BEGUN, FINISHED = b"+", b"-"
"""Kinds of record: a launch has begun or finished; its mark (8 bytes) follows."""

RECORD = 9
"""Length of a record in bytes."""


def main() -> None:
    """Wait until the caller is gone, then end what its launches have left."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _drop_inherited()
    for mark in follow(0):
        cgroup = cgroups.locate(mark)
        cgroups.kill(cgroup)
        marks.end(mark)
        if os.path.exists(cgroup):
            cgroups.remove(cgroup)


def follow(fd: int) -> set[int]:
    """Read records until the caller is gone; return the marks of launches that have not finished."""
    marks: set[int] = set()
    rest = b""
    while True:
        try:
            data = os.read(fd, 4096)
        except ConnectionResetError:
            return marks
        if not data:
            return marks
        rest += data
        while len(rest) >= RECORD:
            record, rest = rest[:RECORD], rest[RECORD:]
            mark = int.from_bytes(record[1:], "big")
            marks.add(mark) if record[:1] == BEGUN else marks.discard(mark)


def _drop_inherited() -> None:
    """Close descriptors that the caller lets others inherit, and leave its folder."""
    os.chdir("/")
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:  # the descriptor that listed them
                pass
