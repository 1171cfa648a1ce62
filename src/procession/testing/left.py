"""Finds the processes that a test has left behind, whoever their parent is by now, and ends them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from procession._cleanup.marks import list_children
from procession._linux.procstat import read_stat
from procession._linux.syscalls import pidfd_open, pidfd_send_signal
from procession.testing.resources import HELPERS, read_command
from procession.testing.supervisor import root

Census: TypeAlias = dict[int, str]
"""Living processes, and when each was born: a number may become another's."""

_STAY = (
    *HELPERS,
    "procession._cleanup.reaper",
    "procession._forkserver.server",
)  # of the process that tests, for its life
_PARENT, _BIRTH = 1, 19  # fields of `read_stat`


class Left(NamedTuple):
    """A process that was left behind."""

    pid: int
    birth: str
    command: str


def take_census(spared: Census | None = None) -> Census:
    """Return what descends from the process that tests, which is left out itself.

    Args:
        spared: processes that are left out with all that descends from them.
    """
    top, own = root(), os.getpid()
    found: Census = {}
    seen: set[int] = set()
    for _ in range(2):  # what has lost its parent meanwhile is now a child of the first
        queue = [top]
        while queue:
            for child in list_children(queue.pop()):
                fields = read_stat(child) if child not in seen else []
                seen.add(child)
                if fields and (spared is None or spared.get(child) != fields[_BIRTH]):
                    queue.append(child)
                    if fields[0] not in "ZX" and child != own:
                        found[child] = fields[_BIRTH]
    return found


def find_left(
    look: Callable[[], Census], before: Census, patience: float, keep: Callable[[Left], bool]
) -> list[Left]:
    """Return what is there that was not before, and does not end by itself in time.

    Args:
        look: returns what is there.
        before: what was there.
        patience: how long to wait, in seconds.
        keep: tells which need not be waited for, since they may stay.
    """
    until = time.monotonic() + patience
    while left := [one for one in _compare(look(), before) if not _stays(one)]:
        if all(map(keep, left)) or time.monotonic() >= until:
            break
        time.sleep(0.01)
    return left


def is_alive(one: Left) -> bool:
    """Whether a process has not ended yet."""
    fields = read_stat(one.pid)
    return bool(fields) and fields[0] not in "ZX" and fields[_BIRTH] == one.birth


def end(left: Iterable[Left]) -> None:
    """Kill processes."""
    for one in left:
        try:
            pidfd = pidfd_open(one.pid)
        except OSError:  # it has ended
            continue
        try:
            if is_alive(one):  # asked now that the number cannot become another's
                pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def _compare(now: Census, before: Census) -> list[Left]:
    return [
        Left(pid, birth, read_command(pid))
        for pid, birth in sorted(now.items())
        if before.get(pid) != birth
    ]


def _stays(one: Left) -> bool:
    if not any(name in one.command for name in _STAY):
        return False
    fields = read_stat(one.pid)
    return not fields or int(fields[_PARENT]) == os.getpid()
