"""Lists the resources of this process: children, descriptors, threads, shared memory."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from procession.testing.introspect import list_children
from procession.testing.times import patience

Stock: TypeAlias = frozenset[tuple[str, str]]
"""The kind and the name of each resource."""

HELPERS = "multiprocessing.resource_tracker", "multiprocessing.forkserver"
"""Parts of the commands of the helpers that multiprocessing keeps for the next launch."""

_SHARED = "psm_", "sem.mp-", "torch_", "procession"  # other names belong to other programs
_PATIENCE = patience(5.0)  # seconds for resources to go by themselves


def take_stock(kind: str) -> Stock:
    """Return this process's resources of one kind: ``child``, ``descriptor``, ``thread`` or ``memory``."""
    return frozenset((kind, name) for name in _LISTS[kind]())


def find_left(take: Callable[[], Stock], before: Stock) -> Stock:
    """Return the resources that are new since ``before``, and stay."""
    left = take() - before
    until = time.monotonic() + _PATIENCE
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left &= take()
    return left and _leave_out_foreign(left)


def _leave_out_foreign(left: Stock) -> Stock:
    """Leave out shared memory that another process uses, such as a second run of the tests."""
    others = set(Path("/proc").glob("[0-9]*/maps")) - {Path("/proc", str(os.getpid()), "maps")}
    maps = b"".join(map(_read, map(str, others)))
    # by inode: glibc's sem_open maps a semaphore under a temporary name, and renames it later
    foreign = {int(inode) for inode in re.findall(rb" (\d+) +/dev/shm/", maps)} | {0}
    return frozenset(
        (kind, name)
        for kind, name in left
        if kind != "memory" or _read_inode(f"/dev/shm/{name}") not in foreign
    )


def read_command(pid: int) -> str:
    """Return the command of a process; an empty string if it has ended."""
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _list_children() -> Iterator[str]:
    for pid in list_children(os.getpid()):
        command = read_command(pid)
        if not any(helper in command for helper in HELPERS):
            yield f"{pid} {command or 'zombie'}"


def _list_descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the descriptor that listed the folder
            continue
        if "/pym-" not in target:  # multiprocessing keeps its heap
            yield f"{fd} -> {target}"


def _list_threads() -> Iterator[str]:
    return (f"{thread.name} {thread.ident}" for thread in threading.enumerate())


def _list_shared_memory() -> Iterator[str]:
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return (name for name in names if name.startswith(_SHARED))


def _read_inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:  # it has gone
        return 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it has gone
        return b""


_LISTS = {
    "child": _list_children,
    "descriptor": _list_descriptors,
    "thread": _list_threads,
    "memory": _list_shared_memory,
}
