"""Waits for many sentinels and channels at once; the cost grows with events, not with ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from procession._linux import fds
from procession._python import unpatched
from procession._python.fd_numbers import above_streams

_POLLIN = unpatched.POLLIN  # EPOLLIN has the same value

Key = tuple[str, int]
"""What is ready: ("sentinel" | "channel" | "wake", rank)."""


_lost: list[_Epoll | _Selector] = []
"""Selectors whose descriptor other code closed by number.

Freeing one would close the file that has the number now, so this list keeps them alive.
"""


class _Epoll:
    """The methods of a selector that a waiter needs, over the epoll(7) that gevent and eventlet hide."""

    def __init__(self) -> None:
        epoll = fds.make_above_streams(unpatched.epoll)
        self._epoll = epoll
        self.fileno, self.close = epoll.fileno, epoll.close

    def register(self, fd: int) -> None:
        """Also wait for a descriptor."""
        self._epoll.register(fd, _POLLIN)

    def unregister(self, fd: int) -> None:
        """Stop waiting for a descriptor."""
        try:
            self._epoll.unregister(fd)
        except OSError:  # other code has closed it by number
            pass

    def select(self, timeout: float | None) -> list[int]:
        """Return the descriptors that are readable, after at most ``timeout`` seconds."""
        return [fd for fd, _ in self._epoll.poll(None if timeout is None else max(timeout, 0))]


class _Selector:
    """The same over the default selector, on platforms without epoll."""

    def __init__(self) -> None:
        import selectors

        selector = fds.make_above_streams(selectors.DefaultSelector)
        self._selector = selector
        self.unregister, self.close = selector.unregister, selector.close
        if hasattr(selector, "fileno"):
            self.fileno = selector.fileno

    def register(self, fd: int) -> None:
        """Also wait for a descriptor."""
        self._selector.register(fd, 1)  # EVENT_READ

    def select(self, timeout: float | None) -> list[int]:
        """Return the descriptors that are readable, after at most ``timeout`` seconds."""
        return [key.fd for key, _ in self._selector.select(timeout)]


class SelectorWaiter:
    """A selector (epoll on Linux) that lives as long as its launch; other selectors can wait for it."""

    def __init__(self) -> None:
        self._keys: dict[int, list[Key]] = {}
        self._fds: dict[Key, int] = {}
        self._closed = False
        self._closing = unpatched.RLock()
        # the number of greenlets in `_select`; after `close`, the last of them frees the selector
        self._switched = 0
        with fds.LOCK:
            self._selector = _Epoll() if unpatched.epoll else _Selector()
            self._wake_read, self._wake_write = map(fds.keep, fds.open_pipe())
            fds.keep_object(self)
        self._identity = self._identify()
        os.set_blocking(self._wake_read, False)
        self.add(self._wake_read, ("wake", -1))

    def add(self, item: Any, key: Key) -> None:
        """Also wait for ``item``, a descriptor or an object with `fileno`; keys may share one."""
        fd = item if isinstance(item, int) else item.fileno()
        self._fds[key] = fd
        if fd in self._keys:
            self._keys[fd].append(key)
        else:
            self._keys[fd] = [key]
            self._selector.register(fd)

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
        for fd in self._select(timeout):
            ready += self._keys.get(fd, ())
        if ("wake", -1) in ready:
            ready.remove(("wake", -1))
            try:
                if not self._closed:  # once closed, the byte stays and wakes the next greenlet, too
                    unpatched.read(self._wake_read, 4096)
            except OSError:  # a signal handler has read it, or closed the pipe
                pass
        return ready

    def wake(self) -> None:
        """Make a `wait` in another thread return."""
        if not self._closed:
            try:
                unpatched.write(self._wake_write, b"w")
            except OSError:  # closed since the check
                pass

    def _select(self, timeout: float | None) -> list[int]:
        try:
            if timeout != 0 and unpatched.is_patched():
                ready = self._selector.select(0)
                if ready or self._switch(timeout):
                    return ready or self._selector.select(0)
            return self._selector.select(timeout)
        except (OSError, ValueError):
            if self._closed:  # a signal handler closed it during the call
                return []
            raise

    def _switch(self, timeout: float | None) -> bool:
        """Let other greenlets run until something is ready; return False at once if there are none."""
        from procession._python.greenlets import switch_until_readable

        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            return False
        self._switched += 1
        try:
            return switch_until_readable(fileno(), timeout, is_kept=True)
        except BaseException:
            self.wake()  # another greenlet takes the event in its place
            raise
        finally:
            self._switched -= 1
            if self._closed and not self._switched:
                self._free()

    def duplicate(self) -> int | None:
        """Return a descriptor that is readable when `wait` would return; the caller closes it.

        None if the platform has none, or after `close`.
        """
        fileno = getattr(self._selector, "fileno", None)
        with self._closing:
            return None if fileno is None or self._closed else above_streams(os.dup(fileno()))

    def close(self) -> None:
        """Free the selector; if greenlets wait on it, the last of them frees it when it returns."""
        with self._closing:
            if not self._closed:
                if self._switched:
                    self.wake()
                self._closed = True
                if not self._switched:
                    self._free()

    def _free(self) -> None:
        self._selector.close()
        fds.drop(self._wake_read)
        fds.drop(self._wake_write)

    def close_in_child(self) -> None:
        """Free the selector in a new fork, which has closed the registered descriptors already."""
        if self._closed:
            return
        self._closed = True
        if self._switched:  # the event loop waits for it, and would abort
            return
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
    """The same over `multiprocessing.connection.wait`, for Windows, where no selector accepts handles."""

    def __init__(self) -> None:
        from multiprocessing import Pipe

        self._read, self._write = Pipe(duplex=False)
        self._items: dict[Key, Any] = {("wake", -1): self._read}

    def add(self, item: Any, key: Key) -> None:
        """Also wait for ``item``."""
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
