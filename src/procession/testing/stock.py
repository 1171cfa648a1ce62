"""What a process has at a moment: children, descriptors, threads, shared memory."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import TypeAlias

Stock: TypeAlias = frozenset[tuple[str, str]]
"""The kind of each thing, and its name."""

_STAY = b"multiprocessing.resource_tracker", b"multiprocessing.forkserver"
_SHARED = "psm_", "sem.mp-", "procession"  # others belong to other programs


def take_stock(kind: str) -> Stock:
    """Return what this process has of a kind: ``child``, ``descriptor``, ``thread``, ``memory``."""
    return frozenset((kind, name) for name in _LISTS[kind]())


def _list_children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        for pid in _read(f"/proc/self/task/{task}/children").decode().split():
            command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ")
            if not any(server in command for server in _STAY):
                yield f"{pid} {command.decode(errors='replace') or 'zombie'}"


def _list_descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listed them
            continue
        if "/pym-" not in target:  # the heap of multiprocessing, which it keeps
            yield f"{fd} -> {target}"


def _list_threads() -> Iterator[str]:
    return (f"{thread.name} {thread.ident}" for thread in threading.enumerate())


def _list_shared_memory() -> Iterator[str]:
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return (name for name in names if name.startswith(_SHARED))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # gone meanwhile
        return b""


_LISTS = {
    "child": _list_children,
    "descriptor": _list_descriptors,
    "thread": _list_threads,
    "memory": _list_shared_memory,
}
