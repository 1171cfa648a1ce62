"""Waits for many sentinels and channels at once, at a cost per event and not per rank."""

from __future__ import annotations

import os
import selectors
import sys
import threading
from collections.abc import Iterable
from typing import Any

from procession import fds

Key = tuple[str, int]
"""What is ready: ("sentinel" | "channel" | "wake", rank)."""


_lost: list[selectors.BaseSelector] = []
"""Selectors whose descriptor somebody has closed by its number: to free them would close another file."""


class SelectorWaiter:
    """One selector (epoll on Linux), kept for the life of a launch; it can itself be waited on."""

    def __init__(self) -> None:
        self._keys: dict[int, list[Key]] = {}
        self._fds: dict[Key, int] = {}
        self._closed = False
        self._closing = threading.RLock()
        with fds.LOCK:
            self._selector = selectors.DefaultSelector()
            self._wake_read, self._wake_write = map(fds.keep, fds.open_pipe())
            fds.keep_object(self)
        self._identity = self._identify()
        os.set_blocking(self._wake_read, False)
        self.add(self._wake_read, ("wake", -1))

    def add(self, item: Any, key: Key) -> None:
        """Wait for ``item`` (a descriptor or what has one) too; several keys may share one."""
        fd = item if isinstance(item, int) else item.fileno()
        self._fds[key] = fd
        if fd in self._keys:
            self._keys[fd].append(key)
        else:
            self._keys[fd] = [key]
            self._selector.register(fd, selectors.EVENT_READ, fd)

    def discard(self, key: Key) -> None:
        """Stop waiting for a key."""
        fd = self._fds.pop(key, None)
        if fd is None or self._closed:
            return
        self._keys[fd].remove(key)
        if not self._keys[fd]:
            del self._keys[fd]
            self._selector.unregister(fd)

    def wait(self, timeout: float | None) -> list[Key]:
        """Return the keys that are ready, after at most ``timeout`` seconds."""
        ready: list[Key] = []
        for selected, _ in self._select(timeout):
            ready += self._keys.get(selected.data, ())
        if ("wake", -1) in ready:
            try:
                os.read(self._wake_read, 4096)
            except OSError:  # a signal handler that waited has read it, or closed it
                pass
            ready.remove(("wake", -1))
        return ready

    def wake(self) -> None:
        """Make a `wait` in another thread return."""
        if not self._closed:
            try:
                os.write(self._wake_write, b"w")
            except OSError:  # closed in this instant
                pass

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self._selector.select(timeout)
        except (OSError, ValueError):
            if self._closed:  # by a signal handler, during the call
                return []
            raise

    def duplicate(self) -> int | None:
        """Return a descriptor, the caller's to close, that is readable when `wait` would return.

        None where there is none, or no more.
        """
        fileno = getattr(self._selector, "fileno", None)
        with self._closing:
            return None if fileno is None or self._closed else os.dup(fileno())

    def close(self) -> None:
        """Free the selector."""
        with self._closing:
            if not self._closed:
                self.close_in_child()
                fds.drop(self._wake_read)
                fds.drop(self._wake_write)

    def close_in_child(self) -> None:
        """Free the selector in a process just forked, which has closed what was kept already."""
        self._closed = True
        if self._identify() == self._identity:
            self._selector.close()
        else:
            _lost.append(self._selector)

    def _identify(self) -> fds.Identity | None:
        fileno = getattr(self._selector, "fileno", None)
        try:
            return None if fileno is None else fds.identify(fileno())
        except OSError:
            return None


class HandleWaiter:
    """The same over `multiprocessing.connection.wait`, for Windows, whose handles no selector takes."""

    def __init__(self) -> None:
        from multiprocessing import Pipe

        self._read, self._write = Pipe(duplex=False)
        self._items: dict[Key, Any] = {("wake", -1): self._read}

    def add(self, item: Any, key: Key) -> None:
        """Wait for ``item`` too."""
        self._items[key] = getattr(item, "connection", item)

    def discard(self, key: Key) -> None:
        """Stop waiting for a key."""
        self._items.pop(key, None)

    def wait(self, timeout: float | None) -> list[Key]:
        """Return the keys that are ready, after at most ``timeout`` seconds."""
        from multiprocessing.connection import wait

        ready: Iterable[Any] = wait(list(self._items.values()), timeout)
        chosen = set(map(id, ready))
        keys = [key for key, item in self._items.items() if id(item) in chosen]
        if ("wake", -1) in keys:
            self._read.recv_bytes()
            keys.remove(("wake", -1))
        return keys

    def wake(self) -> None:
        """Make a `wait` in another thread return."""
        if not self._write.closed:
            self._write.send_bytes(b"w")

    def duplicate(self) -> int | None:
        """Return None: there is no descriptor to wait on."""
        return None

    def close(self) -> None:
        """Free the pipe."""
        self._read.close()
        self._write.close()


def make_waiter() -> SelectorWaiter | HandleWaiter:
    """Return the waiter for this platform."""
    return HandleWaiter() if sys.platform == "win32" else SelectorWaiter()
