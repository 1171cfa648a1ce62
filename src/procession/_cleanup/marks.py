"""The mark that a rank and all that it starts carry, by which what is left of a launch is found and ended.

The mark is the soft limit of RLIMIT_LOCKS, which Linux has not enforced since 2.4.25 (getrlimit(2)).  Every
process inherits it: through fork and exec, a cleared environment, closed descriptors, a new session and the
death of its parents.  A limit of 0 is no mark: a process that sets it belongs to no launch.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Collection

from procession._linux.syscalls import pidfd_open, pidfd_send_signal
from procession._python import unpatched
from procession._python.clock import monotonic

PATIENCE = 1.0
"""Seconds after which `end` gives up on what SIGKILL has not ended."""

_HELPERS = frozenset({"torch_shm_manag"})
"""Names, as the kernel truncates them, of programs that clean up some time after the last rank they serve."""

_HELPERS_LINGER = 3.0  # seconds; torch's waits 2 s for another client, then unlinks its memory

_LOOKS = 3  # looks in a row that must find nothing, once one found something or missed a process
_ROUNDS = 8  # looks that each found more, after which all stopped processes are killed
_CHASES, _NEAR = 30, 8  # looks at only the newest processes, and how many these are
_NAMED = 5  # processes that a message names
_LOCKS = 10  # RLIMIT_LOCKS, which the resource module does not name


def mark_of(launch_id: str) -> int:
    """Return a launch's mark: 61 bits of its id (16 hex digits), so large that it can never be a limit."""
    return 1 << 61 | int(launch_id, 16) >> 3


def put(pid: int, number: int) -> None:
    """Mark a process (0: this one), and all that it starts from now on.

    Does nothing for the mark 0, nor where it is not allowed: a lower hard limit, a sandbox.
    """
    if number:
        _set_limit(pid, number)


def can_mark_children() -> bool:
    """Return whether this process may mark its children: its real and effective user and group must agree."""
    return os.getuid() == os.geteuid() and os.getgid() == os.getegid()


def list_children(pid: int) -> list[int]:
    """Return the children of all threads of a process (proc_pid_children(5)); none if it has ended."""
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:  # it has ended, or this kernel does not list them
        pass
    return children


def spare(pid: int) -> None:
    """Remove the mark from a process (0: this one), and from all that it starts from now on."""
    _set_limit(pid, 0)


def read_mark(pid: int) -> int | None:
    """Return a process's mark; 0 if we may not read it, None if the process has ended."""
    try:
        return resource.prlimit(pid, _LOCKS)[0]
    except ProcessLookupError:
        return None
    except OSError:
        # root in a container may kill another user's process, but lacks CAP_SYS_RESOURCE to read its limits;
        # and prlimit(2) compares with the real user, kill(2) also with the effective one
        return _read_shown_mark(pid) if 0 in (os.geteuid(), os.getuid()) else 0


def _read_shown_mark(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            found = [line.split()[3] for line in file if line.startswith("Max file locks")]
    except OSError:
        return None
    return int(found[0]) if found and found[0].isdigit() else 0


def end(number: int, groups: Collection[int] | None = None, linger: float = 0.0) -> bool:
    """Kill all processes that carry a mark, with what they start meanwhile, and wait until they have ended.

    They are stopped first, and killed once a look finds no more of them.  So a process that starts another
    one when a third one ends has no chance to do so.

    Args:
        number: the mark.
        groups: if given, only processes in one of these process groups.
        linger: seconds for which they may end by themselves; 3 s if only `_HELPERS` are left.

    Returns:
        False if some are still found after `PATIENCE`.
    """
    kill_from = monotonic() + linger
    until = kill_from + PATIENCE
    stopped: list[int] = []
    known: set[int] = set()  # their process ids
    rounds = quiet = 0
    enough = 1
    try:
        while number and quiet < enough:
            stops = monotonic() >= kill_from
            if stops and linger < _HELPERS_LINGER and not stopped and _are_helpers(number, groups):
                more, linger = _HELPERS_LINGER - linger, _HELPERS_LINGER
                kill_from, until, stops = kill_from + more, until + more, False
            if monotonic() >= until:
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
    """Return pidfds, which the caller closes, of the living processes that carry a mark.

    With ``stop``, stop each process on sight: one that forks and ends has less time for it.  Processes in the
    set are skipped, and the others are added to it.  The second value says whether a process ended before its
    mark could be read: it may have had a child.
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
    # perhaps processes start one another faster than all can be listed
    chases = _CHASES if missed else 0
    while chases and not found:
        chases -= 1
        last = _last_pid()
        for pid in range(last, max(last - _NEAR, 0), -1):
            look_at(pid)
    return found, missed


def describe(number: int) -> str:
    """Return the names of processes that carry a mark, for a message."""
    names: list[str] = []
    for pid in _list_newest_first():
        if read_mark(pid) == number and len(names) < _NAMED:
            names.append(f"{pid} ({_name_of(pid)})")
    return ", ".join(names) or "they start and end too fast to be named"


def _are_helpers(number: int, groups: Collection[int] | None) -> bool:
    """Return whether all processes that carry a mark are programs that clean up and then end."""
    names = [
        _name_of(pid)
        for pid in _list_newest_first()
        if read_mark(pid) == number and (groups is None or _group_of(pid) in groups)
    ]
    return bool(names) and _HELPERS.issuperset(names)


def _list_newest_first() -> list[int]:
    """Return all process ids, the newest first; after the largest, numbers start again at 1."""
    last = _last_pid()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted(pids, key=lambda pid: (pid > last, -pid))


def _last_pid() -> int:
    """Return the number that a process or thread got last (proc_loadavg(5)); 0 if unknown."""
    try:
        # in binary: text may need an import, and there may be no descriptor left for that
        with open("/proc/loadavg", "rb") as file:
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
    # read again: with the pidfd open, a reuse of the number no longer goes unnoticed
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
    except OSError:  # it has ended, or now runs as a user whom we may not signal
        pass


def _kill(pidfds: list[int]) -> None:
    for pidfd in pidfds:
        _signal(pidfd, signal.SIGKILL)


def _wait_and_close(pidfds: list[int], until: float) -> None:
    """Wait until a time for the ends of processes, and reap them; close and forget their pidfds."""
    try:
        for pidfd in pidfds:
            if _has_ended(pidfd, max(until - monotonic(), 0)):
                _reap(pidfd)
    finally:
        while pidfds:
            unpatched.close(pidfds.pop())


def _reap(pidfd: int) -> None:
    """Reap a process if it has become a child of this one, as orphans become children of process 1."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:  # it is no child of this process
        pass


def _has_ended(pidfd: int, patience: float) -> bool:
    return unpatched.is_ready(pidfd, patience)
