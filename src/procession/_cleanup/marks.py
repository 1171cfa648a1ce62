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

from procession._linux.syscalls import pidfd_open, pidfd_send_signal
from procession._python import unpatched

PATIENCE = 1.0
"""Seconds after which `end` gives up on what SIGKILL has not ended."""

_HELPERS = frozenset({"torch_shm_manag"})
"""Names, as the kernel cuts them, of programs that clean up some time after the last rank they serve."""

_HELPERS_LINGER = 3.0  # seconds; torch's waits 2 for another client, then unlinks shared memory

_LOOKS = 3  # that have to find nothing, where something was found or processes come and go
_ROUNDS = 8  # looks after which what they have stopped is killed, though each has found more
_CHASES, _NEAR = 30, 8  # looks at the newest processes alone, and at how many
_NAMED = 5  # processes in a message
_LOCKS = 10  # RLIMIT_LOCKS, which the resource module does not name


def mark_of(launch_id: str) -> int:
    """Return a launch's mark: 61 bits of its id (16 hex digits), so large that it could never limit."""
    return 1 << 61 | int(launch_id, 16) >> 3


def put(pid: int, number: int) -> None:
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
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
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

    They are stopped first, and killed once a look finds no more of them: one that starts another when a
    third ends then does not get to it.

    Args:
        number: the mark.
        groups: if given, only those that are in one of these process groups.
        linger: seconds for which they may end by themselves; 3 s where only `_HELPERS` are left.

    Returns:
        False if after `PATIENCE` there is still something to be found.
    """
    kill_from = time.monotonic() + linger
    until = kill_from + PATIENCE
    stopped: list[int] = []
    known: set[int] = set()  # their process ids
    rounds = quiet = 0
    enough = 1
    try:
        while number and quiet < enough:
            stops = time.monotonic() >= kill_from
            if stops and linger < _HELPERS_LINGER and not stopped and _are_helpers(number, groups):
                more, linger = _HELPERS_LINGER - linger, _HELPERS_LINGER
                kill_from, until, stops = kill_from + more, until + more, False
            if time.monotonic() >= until:
                return False
            found, missed = find(number, groups, stop=known if stops else None)
            if found or missed:
                enough = _LOOKS
            if not stops:
                quiet = 0 if found else quiet + 1
                _wait_and_close(found, kill_from)
                continue
            stopped += found
            rounds = rounds + 1 if found else 0
            if stopped and not 0 < rounds < _ROUNDS:
                _kill(stopped)
                _wait_and_close(stopped, until)
                known.clear()
                quiet = rounds = 0
            quiet = 0 if found else quiet + 1
    finally:
        _kill(stopped)
        _wait_and_close(stopped, 0)
    return True


def find(
    number: int, groups: Collection[int] | None = None, *, stop: set[int] | None = None
) -> tuple[list[int], bool]:
    """Return pidfds, the caller's to close, of the living processes that carry a mark.

    With ``stop``, each is stopped on sight: one that forks and ends has less time for it.  Those in that set
    are left out, and the others added to it.  The second value tells whether a process ended before it could
    be asked: it may have had a child.
    """
    found: list[int] = []
    missed = False

    def look_at(pid: int) -> None:
        nonlocal missed
        if stop is not None and pid in stop:
            return
        carried = read_mark(pid)
        missed |= carried is None
        if carried == number and (groups is None or _group_of(pid) in groups):
            pidfd = _open(pid, number)
            missed |= pidfd < 0
            if pidfd >= 0:
                found.append(pidfd)
                if stop is not None:
                    stop.add(pid)
                    _signal(pidfd, signal.SIGSTOP)

    for pid in _list_newest_first():
        look_at(pid)
    chases = (
        _CHASES if missed else 0
    )  # perhaps some start one another faster than all can be listed
    while chases and not found:
        chases -= 1
        last = _last_pid()
        for pid in range(last, max(last - _NEAR, 0), -1):
            look_at(pid)
    return found, missed


def describe(number: int) -> str:
    """Name the processes that carry a mark, for a message."""
    names: list[str] = []
    for pid in _list_newest_first():
        if read_mark(pid) == number and len(names) < _NAMED:
            names.append(f"{pid} ({_name_of(pid)})")
    return ", ".join(names) or "what is left ends and starts anew faster than it can be named"


def _are_helpers(number: int, groups: Collection[int] | None) -> bool:
    """Whether all processes that carry a mark are programs that clean up and then end."""
    names = [
        _name_of(pid)
        for pid in _list_newest_first()
        if read_mark(pid) == number and (groups is None or _group_of(pid) in groups)
    ]
    return bool(names) and _HELPERS.issuperset(names)


def _list_newest_first() -> list[int]:
    """Return the process ids there are; their numbers start again at 1 after the largest."""
    last = _last_pid()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted(pids, key=lambda pid: (pid > last, -pid))


def _last_pid() -> int:
    """Return the number that was given last to a process or thread (proc_loadavg(5)), 0 where unknown."""
    try:
        with open(
            "/proc/loadavg", "rb"
        ) as file:  # text may want an import, for which nothing is left
            return int(file.read().split()[4])
    except (OSError, ValueError, IndexError):
        return 0


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "it has ended"


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


def _signal(pidfd: int, number: int) -> None:
    try:
        pidfd_send_signal(pidfd, number)
    except OSError:  # it has ended, or has become somebody we may not signal
        pass


def _kill(pidfds: list[int]) -> None:
    for pidfd in pidfds:
        _signal(pidfd, signal.SIGKILL)


def _wait_and_close(pidfds: list[int], until: float) -> None:
    """Wait for the ends of processes, until a time, and reap them; close and forget their pidfds."""
    try:
        for pidfd in pidfds:
            if _has_ended(pidfd, max(until - time.monotonic(), 0)):
                _reap(pidfd)
    finally:
        while pidfds:
            unpatched.close(pidfds.pop())


def _reap(pidfd: int) -> None:
    """Reap a process that has become a child of this one, as orphans do of process 1."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:  # somebody else's
        pass


def _has_ended(pidfd: int, patience: float) -> bool:
    return unpatched.is_ready(pidfd, patience)
