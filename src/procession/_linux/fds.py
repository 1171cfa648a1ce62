"""Descriptors that belong to this process alone: any child that it forks closes them at once.

The launcher's ends of channels, its pidfds and its death pipe must not live on in a sibling rank, nor
in a process that user code forks: a copy would hide the launcher's death from its ranks.
"""

from __future__ import annotations

import _socket  # whose sockets gevent and eventlet leave as they are
import os
import sys
import weakref
from _thread import get_ident  # not a greenlet's
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from procession._python import unpatched
from procession._python.fd_numbers import above_streams

if TYPE_CHECKING:
    from socket import socket

    from typing_extensions import Self

Identity: TypeAlias = tuple[int, int]
"""A file's device and inode: who closes descriptors by their numbers may leave ours to others."""

_NEW: Identity = (-1, -1)
"""The identity of a descriptor that nobody has looked at."""

LOCK = unpatched.RLock()
"""Held while descriptors are made and noted, so that no fork comes in between."""

_kept: dict[int, Identity] = {}
_objects: weakref.WeakSet[Holder] = weakref.WeakSet()
_parents: list[object] = []
_watching = False
_trusting = 0  # the thread whose forks need not look, if there is one


class Holder(Protocol):
    """An object that holds a descriptor of its own."""

    def close_in_child(self) -> None:
        """Close it in a process just forked, where another thread's locks stay held for ever."""


class Socket(_socket.socket):
    """A socket that closes when a block ends."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def keep(fd: int) -> int:
    """Note a descriptor as this process's own, and return it."""
    with LOCK:
        _watch()
        _kept[fd] = _NEW if _trusting else identify(fd)
    return fd


def is_kept(fd: int) -> bool:
    """Whether a descriptor was noted, and is still the same file."""
    identity = _kept.get(fd)
    if identity is None or identity is _NEW:
        return identity is _NEW
    try:
        return identify(fd) == identity
    except OSError:
        return False


@contextmanager
def trusted() -> Iterator[None]:
    """Look once what is still ours, so that forks of this thread in the block need not.

    Between forks a look costs pages (see `forking`): what is noted in the block is looked at after it.
    """
    global _trusting
    with LOCK:
        for fd in [fd for fd in _kept if not is_kept(fd)]:
            _kept.pop(fd, None)
    try:
        _trusting = get_ident()
        yield
    finally:
        _trusting = 0
        with LOCK:
            for fd in [fd for fd, identity in _kept.items() if identity is _NEW]:
                try:
                    _kept[fd] = identify(fd)
                except OSError:  # closed by its number, by another thread
                    _kept.pop(fd, None)


def identify(fd: int) -> Identity:
    """Return which file a descriptor stands for; all files of the kernel's anonymous inode are one."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def keep_object(item: Holder) -> None:
    """Have an object closed in every child that this process forks."""
    with LOCK:
        _watch()
        _objects.add(item)


def forget(fd: int) -> None:
    """Have a descriptor stay open in the children that this process forks."""
    with LOCK:
        _kept.pop(fd, None)


def drop(fd: int) -> None:
    """Close a descriptor that `keep` noted, unless it is not noted any more, or is another file."""
    with LOCK:
        ours = is_kept(fd)
        _kept.pop(fd, None)
        if ours:
            unpatched.close(fd)


def open_pipe() -> tuple[int, int]:
    """Return the ends of a pipe, both above the standard streams."""
    read, write = os.pipe()
    return above_streams(read), above_streams(write)


def open_channel_pair(*, messages: bool = False) -> tuple[int, int]:
    """Return a connected pair of Unix sockets, both above the standard streams.

    They are stream sockets, or, with ``messages``, keep the bounds of what is sent (unix(7)).
    """
    kind = _socket.SOCK_SEQPACKET if messages else _socket.SOCK_STREAM
    ends = _socket.socketpair(_socket.AF_UNIX, kind)
    for end in ends:
        end.settimeout(None)  # whatever socket.setdefaulttimeout() says
    ours, theirs = ends
    return above_streams(ours.detach()), above_streams(theirs.detach())


def as_socket(fd: int) -> Socket:
    """Return a Unix stream socket object over a descriptor, which it then owns; it blocks."""
    sock = Socket(_socket.AF_UNIX, _socket.SOCK_STREAM, fileno=fd)
    sock.settimeout(None)  # whatever socket.setdefaulttimeout() says
    return sock


def make_selector() -> Any:
    """Return a selector; its own descriptor, if it has one, is above the standard streams."""
    import selectors

    return make_above_streams(selectors.DefaultSelector)


def make_above_streams(make: Callable[[], Any]) -> Any:
    """Return what a function makes, with a descriptor above the standard streams, if it has one."""
    too_low: list[Any] = []
    try:
        while True:
            made = make()
            if not hasattr(made, "fileno") or made.fileno() > 2:
                return made
            too_low.append(made)
    finally:
        for each in too_low:
            each.close()


def lift_socket(sock: socket) -> socket:
    """Return a socket whose descriptor is above the standard streams, in place of one."""
    if sock.fileno() > 2:
        return sock
    import socket as module

    patience = sock.gettimeout()
    lifted = module.socket(fileno=above_streams(sock.detach()))
    lifted.settimeout(patience)
    return lifted


def has_stream(number: int) -> bool:
    """Whether this process was started with a standard stream, and has one by that number still.

    What has come to the number of one that was closed is a file of the user's.
    """
    try:
        os.fstat(number)
    except OSError:
        return False
    return getattr(sys, ("__stdin__", "__stdout__", "__stderr__")[number], None) is not None


def fill_streams() -> None:
    """Open the null device wherever a standard stream is closed, for this process and its children."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _watch() -> None:
    global _watching
    if not _watching:
        _watching = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_close_in_child
            )


def _close_in_child() -> None:
    global _kept, _trusting
    try:
        trusted, _trusting = _trusting == get_ident(), 0
        _close_runs(sorted(_kept if trusted else filter(is_kept, list(_kept))))
        _parents.append(_kept)  # to free it would touch all of it, which the kernel then copies
        _kept = {}
        for item in list(_objects):
            item.close_in_child()
    finally:
        _free_lock()


def _free_lock() -> None:
    """Release the lock as often as the thread that forked had acquired it: its frames never go on here."""
    try:
        while True:
            LOCK.release()
    except RuntimeError:  # it is free
        pass


def _close_runs(numbers: list[int]) -> None:
    """Close descriptors, neighbours with one system call: a launch's are mostly neighbours."""
    start = end = None
    for fd in numbers:
        if fd != end:
            if start is not None and end is not None:
                os.closerange(start, end)
            start = fd
        end = fd + 1
    if start is not None and end is not None:
        os.closerange(start, end)
