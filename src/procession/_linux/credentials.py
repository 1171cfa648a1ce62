"""Reads credentials and limits of a process, which ranks that a forkserver forks take from their caller.

A forkserver is older than the launches that it serves, and its caller may have changed since then: it may
have dropped privileges, for example.  A server's ranks have the server's rights, so a caller with other
rights needs another server.  What any process may change for itself, each rank adopts from its caller as it
starts.
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

from procession._python import unpatched

_NAMESPACES = (
    *("user", "mnt", "net", "pid_for_children"),
    *("ipc", "uts", "cgroup", "time_for_children"),
)
_LIMITS = [number for number in range(16) if number != 10]
"""All limits but RLIMIT_LOCKS, which is our mark: see `_cleanup.marks`."""

Capabilities = tuple[int, int, int]
"""The effective, permitted and inheritable capabilities of a thread, as bits (capabilities(7))."""

Settings = tuple[int, list[int], int, list[tuple[int, int]]]
"""What a rank can adopt from its caller: umask, CPUs, nice value, limits; `marshal` can carry it."""


class Credentials(NamedTuple):
    """The credentials of a caller: its rights, how it is scheduled, and what its ranks can adopt.

    ``rights`` are user, groups and capabilities, what seccomp and no_new_privs forbid, namespaces and the
    root folder.
    """

    rights: tuple[object, ...]
    policy: tuple[int, int]
    settings: Settings


def read_credentials() -> Credentials:
    """Return the credentials of the calling thread, which a child would inherit."""
    identity, umask = _read_status()
    return Credentials(
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
    """Return whether a process that has the settings ``known`` may adopt others: it can only lower rights."""
    nice, limits = settings[2:]
    if limits == known[3]:
        return nice >= known[2]
    return nice >= known[2] and all(
        _height(hard) <= _height(own) for (_, hard), (_, own) in zip(limits, known[3], strict=True)
    )


def adopt(settings: Settings, known: Settings) -> None:
    """Adopt a caller's settings where they differ from ``known``, those that this process has from it."""
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
    """Return this thread's capabilities if a program that it starts would have more; None if it would not.

    For root, exec restores all capabilities of the bounding set (capabilities(7)).
    """
    if os.geteuid() != 0 and os.getuid() != 0:
        return None
    try:
        text = _read("/proc/thread-self/status")
        own = _read_capabilities(text)
        bounding = int(_cut(text, b"\nCapBnd:", b"\n"), 16)
    except (OSError, ValueError):  # no /proc, or another kernel's format
        return None
    return own if bounding & ~own[1] else None


def shed_excess(allowed: Capabilities) -> None:
    """Drop, for good, the capabilities that the process that started this one did not have.

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
    """Return user, groups, capabilities and what is forbidden; and the umask (proc_pid_status(5))."""
    try:
        text = _read("/proc/thread-self/status")
        user = _cut(text, b"\nUid:", b"\nFDSize:")
        forbidden = _cut(text, b"\nCapInh:", b"\nCpus_allowed:")
        groups = _cut(text, b"\nGroups:", b"\n")
        return (user, groups, forbidden), int(_cut(text, b"\nUmask:", b"\n"), 8)
    except (OSError, ValueError):  # no /proc, or another kernel's format
        umask = os.umask(0o077)
        os.umask(umask)
        return (os.getresuid(), os.getresgid(), tuple(os.getgroups())), umask


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # takes half as long as `open`
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
    """Return the root folder and the namespaces of this thread."""
    root = os.stat("/")
    return root.st_dev, root.st_ino, *map(_read_namespace, _NAMESPACES)


def _read_namespace(name: str) -> str:
    try:
        return os.readlink(f"/proc/thread-self/ns/{name}")
    except OSError:  # no /proc, or a kernel without it
        return ""
