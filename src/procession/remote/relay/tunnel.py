"""`Tunnel`: the sockets of one agent at one end of a relay; `Pump`: the thread that serves them."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from procession._linux import fds
from procession._linux.messages import NO_SIGNAL
from procession._python.clock import monotonic
from procession._python.fd_numbers import above_streams
from procession.remote.link import is_unacknowledged

Item = tuple[int, bytes | None]
"""The number of a connection and data on it: None opens the connection, b"" closes it."""

LIMIT = 4 << 20
"""The most bytes of one agent that wait at one end or travel at once, give or take a chunk."""

_CHUNK = 1 << 20  # bytes to read or write at once
_LOOK = 0.002  # seconds between looks at states that raise no event, at first
_LONGEST_LOOK = 0.05


class _Stream:
    """One connection at this end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.read_end = False
        self.wrote_end = False
        self.wanted = 0  # the events that the selector waits for


class Tunnel:
    """The connections of one agent at one end; ``came`` is the data read from them."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.streams: dict[int, _Stream] = {}
        self.came: list[Item] = []
        self.size: int = 0  # the bytes in `came`
        self.waiting_size: int = 0
        self._waiting: deque[tuple[int, memoryview | None]] = deque()
        self._look = 0.0  # the last pause because another connection comes first
        self._connect = connect

    def open(self, number: int, sock: socket.socket) -> None:
        """Add a connection."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams[number] = _Stream(sock)

    def take(self) -> list[Item]:
        """Return the data that was read, and forget it."""
        came, self.came, self.size = self.came, [], 0
        return came

    def give(self, items: Sequence[Item]) -> None:
        """Queue data to be written."""
        for number, data in items:
            self._waiting.append((number, None if data is None else memoryview(data)))
            self.waiting_size += len(data or b"")

    def read(self, last: int) -> None:
        """Read the connections up to this number, the last one with an event.

        Read all data of each before the next, whose data may refer to it.
        """
        for number in sorted(self.streams):
            if number > last or not self._read_all(number):
                return

    def write(self) -> float:
        """Write as much as possible; return the seconds until the next look without an event, or 0."""
        while self._waiting:
            number, data = self._waiting[0]
            if data is None:
                self._begin(number)
            elif self._must_wait(number):
                self._look = min(2 * self._look or _LOOK, _LONGEST_LOOK)
                return self._look
            elif not self._write_some(number, data):
                break
            self._waiting.popleft()
        self._look = 0.0
        return 0.0

    def end(self) -> None:
        """End all connections, once all queued data is written."""
        for number in sorted(self.streams.keys() | {number for number, _ in self._waiting}):
            self._waiting.append((number, memoryview(b"")))

    def arrange(self, selector: selectors.BaseSelector) -> None:
        """Make the selector wait for what this end can do next; remove connections that have ended."""
        next_ = self._waiting[0][0] if self._waiting and not self._look else -1
        for number, stream in list(self.streams.items()):
            wanted = 0
            if not stream.read_end and self.size < LIMIT:
                wanted |= selectors.EVENT_READ
            if number == next_:
                wanted |= selectors.EVENT_WRITE
            over = stream.read_end and stream.wrote_end
            _select(selector, stream, 0 if over else wanted, (self, number))
            if over:
                stream.sock.close()
                del self.streams[number]

    def close(self, selector: selectors.BaseSelector) -> None:
        """Close all connections and drop all data."""
        for stream in self.streams.values():
            _select(selector, stream, 0, None)
            stream.sock.close()
        self.streams.clear()
        self._waiting.clear()
        self.take()
        self.waiting_size = 0

    def _read_all(self, number: int) -> bool:
        """Read the data on a connection; return whether nothing is left."""
        stream = self.streams[number]
        while not stream.read_end:
            if self.size >= LIMIT:
                return False
            try:
                data = stream.sock.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:  # the other end is gone
                data = b""
            stream.read_end = not data
            self.came.append((number, data))
            self.size += len(data)
        return True

    def _begin(self, number: int) -> None:
        try:
            with fds.LOCK:
                self.open(number, self._connect())
        except OSError:
            self.came.append((number, b""))

    def _must_wait(self, number: int) -> bool:
        """Whether data written to another connection is not acknowledged yet."""
        return any(
            is_unacknowledged(stream.sock.fileno())
            for other, stream in self.streams.items()
            if other != number and not stream.wrote_end
        )

    def _write_some(self, number: int, data: memoryview) -> bool:
        """Write data; return False if the rest must wait for room."""
        stream = self.streams.get(number)
        if stream is None or stream.wrote_end:  # it has ended meanwhile
            self.waiting_size -= len(data)
            return True
        try:
            sent = stream.sock.send(data[:_CHUNK], NO_SIGNAL) if data else 0
            if not data:
                stream.wrote_end = True
                stream.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone
            sent, stream.wrote_end = len(data), True
        self.waiting_size -= sent
        self._waiting[0] = number, data[sent:]
        return sent == len(data)


T = TypeVar("T", bound=Tunnel)


class Pump(Generic[T]):
    """A thread that reads and writes the connections of several tunnels."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tunnels: list[T] = []
        self._touched: set[T] = set()
        self._closing = False
        with fds.LOCK:
            self._selector = fds.make_selector()
            self._alarm = above_streams(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            fds.keep_object(self)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="procession-relay", daemon=True)

    def close(self) -> None:
        """Close all connections and end the thread.  May be called twice."""
        with self._changed:
            self._closing = True
            self._touch()
        self._thread.join()

    def close_in_child(self) -> None:
        """Close the descriptors that a new fork of this process does not need."""
        if self._alarm >= 0:
            os.close(self._alarm)
            self._selector.close()
        for tunnel in self._tunnels:
            for stream in tunnel.streams.values():
                stream.sock.close()

    def _touch(self, *tunnels: T) -> None:
        """Make the thread look at these tunnels."""
        self._touched.update(tunnels)
        if self._alarm >= 0:
            os.eventfd_write(self._alarm, 1)

    def _run(self) -> None:
        patience = 0.0
        try:
            while not self._closing:
                events = self._selector.select(patience)
                with self._changed:
                    look = self._move(events)
                    patience, calls = self._turn(monotonic())
                    patience = min(patience, look or (_LOOK if self._touched else patience))
                    self._changed.notify_all()
                for call in calls:
                    call()
        finally:
            with self._changed:
                self._free()
                self._changed.notify_all()

    def _move(self, events: list[tuple[selectors.SelectorKey, int]]) -> float:
        """Read and write what is possible; return the seconds until the next look without an event, or 0."""
        last: dict[T, int] = {}
        for key, ready in events:
            if key.data is None:
                self._notice(key.fileobj)
                continue
            tunnel, number = key.data
            self._touched.add(tunnel)
            if ready & selectors.EVENT_READ:
                last[tunnel] = max(number, last.get(tunnel, 0))
        touched, self._touched = self._touched, set()
        looks = []
        for tunnel in touched:
            if tunnel in last:
                tunnel.read(last[tunnel])
            if look := tunnel.write():
                looks.append(look)
                self._touched.add(tunnel)
            self._advance(tunnel)
            tunnel.arrange(self._selector)
        return min(looks, default=0.0)

    def _notice(self, what: object) -> None:
        """Act on an event of a descriptor that is not a connection."""
        if what == self._alarm:
            os.eventfd_read(self._alarm)

    def _advance(self, tunnel: T) -> None:
        """Act on the new state of a tunnel."""

    def _turn(self, now: float) -> tuple[float, list[Callable[[], None]]]:
        """Return how long to wait for events, and the calls to make before, without the lock."""
        raise NotImplementedError

    def _free(self) -> None:
        self._closing = True
        for tunnel in self._tunnels:
            tunnel.close(self._selector)
        alarm, self._alarm = self._alarm, -1
        self._selector.close()
        os.close(alarm)


def connect(address: tuple[str, int]) -> socket.socket:
    """Return a socket whose connection is under way."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = fds.lift_socket(socket.socket(family))
    sock.setblocking(False)
    sock.connect_ex(address)
    return sock


def _select(
    selector: selectors.BaseSelector, stream: _Stream, wanted: int, data: tuple[object, int] | None
) -> None:
    """Make the selector wait for exactly these events."""
    if wanted == stream.wanted:
        return
    if not stream.wanted:
        selector.register(stream.sock, wanted, data)
    elif wanted:
        selector.modify(stream.sock, wanted, data)
    else:
        selector.unregister(stream.sock)
    stream.wanted = wanted
