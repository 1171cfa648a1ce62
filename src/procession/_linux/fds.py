"""Descriptors that belong to this process alone: every child that it forks closes them at once.

The caller's ends of channels, its pidfds and its death pipe must not stay open in a sibling rank, nor in a
process that user code forks: a copy would hide the caller's death from its ranks.
"""

from __future__ import annotations

import _socket  # its sockets are not patched by gevent and eventlet
import os
import sys
import weakref
from _thread import get_ident  # of a thread, never of a greenlet
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from procession._python import unpatched
from procession._python.fd_numbers import above_streams

if TYPE_CHECKING:
    from socket import socket

    from typing_extensions import Self

Identity: TypeAlias = tuple[int, int]
"""A file's device and inode: code that closes descriptors by number may free ours for other files."""

_NEW: Identity = (-1, -1)
"""The identity of a descriptor that has not been examined yet."""

LOCK = unpatched.RLock()
"""Held while descriptors are created and recorded, so that no fork comes in between."""

_kept: dict[int, Identity] = {}
_objects: weakref.WeakSet[Holder] = weakref.WeakSet()
_parents: list[object] = []
_watching = False
_trusting = 0  # the thread whose forks need not check, if there is one


class Holder(Protocol):
    """An object that holds a descriptor."""

    def close_in_child(self) -> None:
        """Close it in a process just forked, where locks of other threads stay held for ever."""


class Socket(_socket.socket):
    """A socket that closes at the end of a ``with`` block."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Borrowed(_socket.socket):
    """A socket over a descriptor of another owner: it never closes the descriptor.

    A signal handler may raise between any two lines, so that no ``finally`` is reached.  `_socket.socket`
    would then close the descriptor when it is freed.
    """

    __slots__ = ()
    __del__ = _socket.socket.detach  # in C: no handler runs in it


def keep(fd: int) -> int:
    """Record a descriptor as this process's own, and return it."""
    with LOCK:
        _watch()
        _kept[fd] = _NEW if _trusting else identify(fd)
    return fd


def is_kept(fd: int) -> bool:
    """Return whether a descriptor was recorded, and is still the same file."""
    identity = _kept.get(fd)
    if identity is None or identity is _NEW:
        return identity is _NEW
    try:
        return identify(fd) == identity
    except OSError:
        return False


@contextmanager
def trusted() -> Iterator[None]:
    """Check once which descriptors are still ours, so that this thread's forks in the block need not.

    A check between forks costs pages (see `_launch.forking`).  Descriptors recorded in the block are checked
    after it.
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
    """Return which file a descriptor refers to; all files of the kernel's anonymous inode look the same."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def keep_object(item: Holder) -> None:
    """Record an object to close in every child that this process forks."""
    with LOCK:
        _watch()
        _objects.add(item)


def forget(fd: int) -> None:
    """Let a descriptor stay open in the children that this process forks."""
    with LOCK:
        _kept.pop(fd, None)


def drop(fd: int) -> None:
    """Close a descriptor that `keep` recorded, unless the record is gone or the number is another file's."""
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

    They are stream sockets; with ``messages`` they preserve the boundaries of messages (unix(7)).
    """
    kind = _socket.SOCK_SEQPACKET if messages else _socket.SOCK_STREAM
    ends = _socket.socketpair(_socket.AF_UNIX, kind)
    for end in ends:
        end.settimeout(None)  # regardless of socket.setdefaulttimeout()
    ours, theirs = ends
    return above_streams(ours.detach()), above_streams(theirs.detach())


def as_socket(fd: int) -> Socket:
    """Return a blocking Unix stream socket that owns a descriptor."""
    sock = Socket(_socket.AF_UNIX, _socket.SOCK_STREAM, fileno=fd)
    sock.settimeout(None)  # regardless of socket.setdefaulttimeout()
    return sock


def borrow(fd: int) -> Borrowed:
    """Return a blocking Unix stream socket over a descriptor that it does not own."""
    sock = Borrowed(_socket.AF_UNIX, _socket.SOCK_STREAM, fileno=fd)
    sock.settimeout(None)  # regardless of socket.setdefaulttimeout()
    return sock


def make_selector() -> Any:
    """Return a selector; its descriptor, if it has one, is above the standard streams."""
    import selectors

    return make_above_streams(selectors.DefaultSelector)


def make_above_streams(make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns, with its descriptor, if it has one, above the standard streams."""
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
    """Return a socket above the standard streams that replaces the one given."""
    if sock.fileno() > 2:
        return sock
    import socket as module

    patience = sock.gettimeout()
    lifted = module.socket(fileno=above_streams(sock.detach()))
    lifted.settimeout(patience)
    return lifted


def has_stream(number: int) -> bool:
    """Return whether this process was started with a standard stream, and that number is still open.

    Where it was started without the stream, a file at that number is the user's.
    """
    try:
        os.fstat(number)
    except OSError:
        return False
    return getattr(sys, ("__stdin__", "__stdout__", "__stderr__")[number], None) is not None


def fill_streams() -> None:
    """Open the null device at each closed standard stream, for this process and its children."""
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
        _parents.append(_kept)  # freeing it would touch all of it, which the kernel then copies
        _kept = {}
        for item in list(_objects):
            item.close_in_child()
    finally:
        _free_lock()


def _free_lock() -> None:
    """Release the lock as often as the forking thread has acquired it: its frames do not go on here."""
    try:
        while True:
            LOCK.release()
    except RuntimeError:  # it is free
        pass


def _close_runs(numbers: list[int]) -> None:
    """Close descriptors, adjacent ones with one system call: a launch's are mostly adjacent."""
    start = end = None
    for fd in numbers:
        if fd != end:
            if start is not None and end is not None:
                os.closerange(start, end)
            start = fd
        end = fd + 1
    if start is not None and end is not None:
        os.closerange(start, end)
