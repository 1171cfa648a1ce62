"""Finds the processes that a test left behind, whatever their parent is by now, and ends them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from procession.testing.introspect import (
    list_children,
    pidfd_open,
    pidfd_send_signal,
    read_stat,
)
from procession.testing.resources import HELPERS, read_command
from procession.testing.supervisor import root

Census: TypeAlias = dict[int, str]
"""Living processes, and the start time of each: the system reuses process ids."""

_STAY = (
    *HELPERS,
    "procession._cleanup.reaper",
    "procession._forkserver.server",
)  # helpers of the process that runs the tests, which stay as long as it lives
_PARENT, _BIRTH = 1, 19  # fields of `read_stat`


class Left(NamedTuple):
    """A process that was left behind."""

    pid: int
    birth: str
    command: str


def take_census(spared: Census | None = None) -> Census:
    """Return the descendants of the process that runs the tests, without that process itself.

    Args:
        spared: processes to leave out, with all their descendants.
    """
    top, own = root(), os.getpid()
    found: Census = {}
    seen: set[int] = set()
    for _ in range(2):  # a process whose parent ended meanwhile is now a child of the top one
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
    """Return the processes that are new and do not end by themselves in time.

    Args:
        look: returns the processes that exist now.
        before: the processes that existed before the test.
        patience: how long to wait, in seconds.
        keep: returns whether a process may stay, so that nothing waits for its end.
    """
    until = time.monotonic() + patience
    while left := [one for one in _compare(look(), before) if not _stays(one)]:
        if all(map(keep, left)) or time.monotonic() >= until:
            break
        time.sleep(0.01)
    return left


def is_alive(one: Left) -> bool:
    """Return whether a process has not ended yet."""
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
            if is_alive(
                one
            ):  # the system cannot reuse the id any more, since pidfd refers to the process
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
