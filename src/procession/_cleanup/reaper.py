"""The reaper: a process that outlives its launcher by the time it takes to end what the ranks started.

Ranks die with their launcher by themselves (see `guard`); what they started does not.  The reaper's
standard input is a socket on which the launcher tells the marks of its launches.  When the launcher
is gone, however it went, the reaper ends all that carries one of them, and itself.
"""

from __future__ import annotations

import os
import signal

from procession._cleanup import cgroups, marks

BEGUN, FINISHED = b"+", b"-"
"""What a record says of the launch whose mark (8 bytes) follows."""

RECORD = 9
"""Length of a record in bytes."""


def main() -> None:
    """Watch over one launcher until it is gone."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _let_go()
    for mark in follow(0):
        cgroup = cgroups.locate(mark)
        cgroups.kill(cgroup)
        marks.end(mark)
        if os.path.exists(cgroup):
            cgroups.remove(cgroup)


def follow(fd: int) -> set[int]:
    """Read records until there will be no more; return the marks of launches that had not finished."""
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


def _let_go() -> None:
    """Hold nothing of the launcher's: no descriptor that it has let others inherit, and no folder."""
    os.chdir("/")
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:  # the one that listed them
                pass
