"""The mark that a rank and all it starts carry, by which what is left of a launch is found and ended.

The mark is the soft limit of RLIMIT_LOCKS, which Linux has not enforced since 2.4.25 (getrlimit(2)) and
which every process inherits: through fork and exec, a cleared environment, closed descriptors, a new
session and the death of its parents.  A limit of 0 is no mark: a process that sets it is nobody's.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Collection

from procession import unpatched
from procession.syscalls import pidfd_open, pidfd_send_signal

PATIENCE = 1.0
"""Seconds after which `end` gives up on what SIGKILL has not ended."""

_LOOKS = 3  # that have to find nothing where processes come and go meanwhile
_LOCKS = 10  # RLIMIT_LOCKS, which the resource module does not name


def mark_of(launch_id: str) -> int:
    """Return a launch's mark: 61 bits of its id (16 hex digits), so large that it could never limit."""
    return 1 << 61 | int(launch_id, 16) >> 3


def mark(pid: int, number: int) -> None:
    """Have a process (0: this one) carry a mark, and all that it starts from now on.

    Does nothing for the mark 0, nor where it is not allowed: a lower hard limit, a sandbox.
    """
    if number:
        _set_limit(pid, number)


def can_mark_children() -> bool:
    """Whether this process may mark those that it has started: their effective user is its real one."""
    return os.getuid() == os.geteuid() and os.getgid() == os.getegid()


def list_children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads (proc_pid_children(5)); none if it has ended."""
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children += map(int, file.read().split())
    except OSError:  # it has ended, or this kernel does not tell
        pass
    return children


def spare(pid: int) -> None:
    """Take the mark off a process (0: this one), and so off all that it starts from now on."""
    _set_limit(pid, 0)


def read_mark(pid: int) -> int | None:
    """Return a process's mark; 0 for one that we may not ask, None for one that has ended."""
    try:
        return resource.prlimit(pid, _LOCKS)[0]
    except ProcessLookupError:
        return None
    except OSError:
        # root in a container may end another user's process, but lacks CAP_SYS_RESOURCE to ask of it; and
        # prlimit(2) compares with the real user, kill(2) with the effective one as well
        return _read_shown_mark(pid) if 0 in (os.geteuid(), os.getuid()) else 0


def _read_shown_mark(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            soft = next((line.split()[3] for line in file if line.startswith("Max file locks")), "")
    except OSError:
        return None
    return int(soft) if soft.isdigit() else 0


def end(number: int, groups: Collection[int] | None = None, linger: float = 0.0) -> bool:
    """Kill all processes that carry a mark, what they start meanwhile too, and wait for their ends.

    Args:
        number: the mark.
        groups: if given, only those that are in one of these process groups.
        linger: seconds for which they may end by themselves.

    Returns:
        False if after `PATIENCE` there is still something to be found.
    """
    kill_from = time.monotonic() + linger
    until = kill_from + PATIENCE
    empty = 0
    while number and empty < _LOOKS:
        now = time.monotonic()
        if now >= until:
            return False
        alive, missed = find(number, groups, kill=now >= kill_from)
        empty = 0 if alive else empty + 1 if missed else _LOOKS
        try:
            _wait_for(alive, until if now >= kill_from else kill_from)
        finally:
            for pidfd in alive:
                unpatched.close(pidfd)
    return True


def find(
    number: int, groups: Collection[int] | None = None, *, kill: bool = False
) -> tuple[list[int], bool]:
    """Return pidfds, the caller's to close, of the living processes that carry a mark.

    With ``kill``, each is killed on sight: one that forks and ends has less time for it.  The second
    value tells whether a process ended before it could be asked: it may have had a child.
    """
    found, missed = [], False
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        carried = read_mark(int(name))
        missed |= carried is None
        if carried == number and (groups is None or _group_of(int(name)) in groups):
            pidfd = _open(int(name), number)
            missed |= pidfd < 0
            if pidfd >= 0:
                found.append(pidfd)
                if kill:
                    _kill(pidfd)
    return found, missed


def _open(pid: int, number: int) -> int:
    """Return a pidfd of a living process that carries a mark; -1 if it has ended meanwhile."""
    try:
        pidfd = pidfd_open(pid)
    except OSError:
        return -1
    # asked again, now that the number cannot become anybody else's unnoticed
    if read_mark(pid) == number:
        if not _has_ended(pidfd, 0):
            return pidfd
        _reap(pidfd)
    unpatched.close(pidfd)
    return -1


def _set_limit(pid: int, soft: int) -> None:
    try:
        _, hard = resource.prlimit(pid, _LOCKS)
        resource.prlimit(pid, _LOCKS, (soft, hard))
    except (OSError, ValueError):
        pass


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _kill(pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:  # it has ended, or has become somebody we may not signal
        pass


def _wait_for(pidfds: list[int], until: float) -> None:
    """Wait for the ends of processes, until a time, and reap them."""
    for pidfd in pidfds:
        if _has_ended(pidfd, max(until - time.monotonic(), 0)):
            _reap(pidfd)


def _reap(pidfd: int) -> None:
    """Reap a process that has become a child of this one, as orphans do of process 1."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:  # somebody else's
        pass


def _has_ended(pidfd: int, patience: float) -> bool:
    return unpatched.is_ready(pidfd, patience)
