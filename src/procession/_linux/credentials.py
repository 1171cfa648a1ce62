"""Reads what a process may do and what bounds it: ranks that a forkserver forks take it from their caller.

A forkserver is older than the launches that it serves, and its caller may have changed since: dropped its
privileges, say.  A server's ranks have the server's rights, so that a caller of other rights needs another
server.  What any process may change for itself, each rank takes from its caller as it starts.
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

from procession._python import unpatched

_NAMESPACES = ("user", "mnt", "net", "pid_for_children")
_LIMITS = [number for number in range(16) if number != 10]
"""All limits but RLIMIT_LOCKS, which is our mark: see `descendants`."""

Capabilities = tuple[int, int, int]
"""The effective, permitted and inheritable capabilities of a thread, as bits (capabilities(7))."""

Settings = tuple[int, list[int], int, list[tuple[int, int]]]
"""What a rank can take from its caller: umask, CPUs, nice value, limits; `marshal` can carry it."""


class Standing(NamedTuple):
    """What a caller may do, how it is scheduled, and what its ranks can copy.

    ``rights`` are user, groups and capabilities, what seccomp and no_new_privs forbid, namespaces and the
    root folder.
    """

    rights: tuple[object, ...]
    policy: tuple[int, int]
    settings: Settings


def read_standing() -> Standing:
    """Return the standing of the calling thread, which is what it would pass on to a child."""
    identity, umask = _read_status()
    return Standing(
        (*identity, *_read_namespaces()),
        (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        (
            umask,
            sorted(os.sched_getaffinity(0)),
            os.getpriority(os.PRIO_PROCESS, 0),
            [resource.getrlimit(number) for number in _LIMITS],
        ),
    )


def can_adopt(settings: Settings, known: Settings) -> bool:
    """Whether a process that has had some settings may adopt others: without a right, there is no way up."""
    nice, limits = settings[2:]
    if limits == known[3]:
        return nice >= known[2]
    return nice >= known[2] and all(
        _height(hard) <= _height(own) for (_, hard), (_, own) in zip(limits, known[3], strict=True)
    )


def adopt(settings: Settings, known: Settings) -> None:
    """Make this process's settings a caller's, where they differ from those that it has had from it."""
    umask, cpus, nice, limits = settings
    if umask != known[0]:
        os.umask(umask)
    if cpus != known[1]:
        os.sched_setaffinity(0, cpus)
    if nice != known[2]:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    for number, limit, old in zip(_LIMITS, limits, known[3], strict=True):
        if limit != old:
            resource.setrlimit(number, limit)


def _height(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def find_excess() -> Capabilities | None:
    """Return this thread's capabilities, if a program that it starts would have more; None if it would not.

    To root, exec gives back all that is in its bounding set (capabilities(7)).
    """
    if os.geteuid() != 0 and os.getuid() != 0:
        return None
    try:
        text = _read("/proc/thread-self/status")
        own = _read_capabilities(text)
        bounding = int(_cut(text, b"\nCapBnd:", b"\n"), 16)
    except (OSError, ValueError):  # no /proc, or another kernel's
        return None
    return own if bounding & ~own[1] else None


def shed_excess(allowed: Capabilities) -> None:
    """Give up, for good, the capabilities that whoever has started this process did not have.

    Raises:
        OSError: the kernel refuses.
    """
    import array
    import ctypes

    own = _read_capabilities(_read("/proc/thread-self/status"))
    sets = [mine & theirs for mine, theirs in zip(own, allowed, strict=True)]
    low, high = ([one >> shift & 0xFFFFFFFF for one in sets] for shift in (0, 32))
    head, data = array.array("I", [0x20080522, 0]), array.array("I", low + high)
    libc = ctypes.CDLL(None, use_errno=True)
    pointers = (ctypes.c_void_p(each.buffer_info()[0]) for each in (head, data))
    if libc.capset(*pointers):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _read_capabilities(text: bytes) -> Capabilities:
    effective, permitted, inheritable = (
        int(_cut(text, b"\n%b:" % name, b"\n"), 16) for name in (b"CapEff", b"CapPrm", b"CapInh")
    )
    return effective, permitted, inheritable


def _read_status() -> tuple[tuple[object, ...], int]:
    """Return user, groups, capabilities and what is forbidden, and the umask (proc_pid_status(5))."""
    try:
        text = _read("/proc/thread-self/status")
        user = _cut(text, b"\nUid:", b"\nFDSize:")
        forbidden = _cut(text, b"\nCapInh:", b"\nCpus_allowed:")
        groups = _cut(text, b"\nGroups:", b"\n")
        return (user, groups, forbidden), int(_cut(text, b"\nUmask:", b"\n"), 8)
    except (OSError, ValueError):  # no /proc, or another kernel's
        umask = os.umask(0o077)
        os.umask(umask)
        return (os.getresuid(), os.getresgid(), tuple(os.getgroups())), umask


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # half of what `open` takes
    try:
        data = b""
        while part := unpatched.read(fd, 1 << 16):
            data += part
        return data
    finally:
        unpatched.close(fd)


def _cut(text: bytes, start: bytes, end: bytes) -> bytes:
    first = text.index(start) + len(start)
    return text[first : text.index(end, first)]


def _read_namespaces() -> tuple[object, ...]:
    """Return which namespaces this thread is in, and which folder is its root."""
    root = os.stat("/")
    try:
        links = [os.readlink(f"/proc/thread-self/ns/{name}") for name in _NAMESPACES]
    except OSError:  # no /proc, or a kernel without one of them
        links = []
    return root.st_dev, root.st_ino, *links
