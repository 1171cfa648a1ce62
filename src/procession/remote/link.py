"""Frames over one authenticated TCP connection between a hub and an agent, without blocking.

A frame consists of its kind (1 byte), the sizes of its head (4 bytes) and body (8 bytes), the head
(`marshal`) and the body (raw bytes, which the receiver stores in a file in memory).
"""

from __future__ import annotations

import array
import fcntl
import marshal
import os
import select
import socket
import termios
from collections import deque
from threading import RLock
from typing import Any, NamedTuple

from procession._linux import fds, memory
from procession._linux.messages import NO_SIGNAL
from procession._python.defer_signals import defer_sigint
from procession._python.fd_numbers import above_streams

HELLO, SPEC, PAYLOAD, SHARE = b"h", b"o", b"p", b"s"
WANTED, STARTED, UNABLE = b"w", b"b", b"u"
REPORT, RESULT, STACKS, EVIDENCE = b"r", b"v", b"t", b"e"
SIGNAL, ASK, FINISH = b"k", b"a", b"f"
"""The kinds of frames; `agent` and `dispatch` show which side sends which."""

_HEAD = 13
_LARGEST_HEAD = 1 << 28  # bytes; large data travels in bodies
_CHUNK = 1 << 20  # bytes to read or send at once
_TURN = 16  # the most chunks that one call reads, so that other connections get their turn


class GarbledError(EOFError):
    """Raised when received data is not a frame; nothing after it can be interpreted."""


class Frame(NamedTuple):
    """A received frame.

    ``head`` is a value that `marshal` supports, ``body`` the descriptor of a file, or -1.  ``error`` says why
    a body that came is not in a file.
    """

    kind: bytes
    head: Any
    body: int = -1
    error: OSError | None = None


class Link:
    """One end of a connection.  No method blocks, and any thread may call any method.

    `receive` never reads beyond the frame that it returns: if more has come, the descriptor stays readable.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host: str = sock.getsockname()[0]
        """The address of this end."""
        with fds.LOCK:
            self._fd = fds.keep(above_streams(sock.detach()))
        self._lock = RLock()
        self._waiting: deque[memoryview | tuple[int, int, int]] = deque()
        self._came = bytearray()
        self._body = -1
        self._left = 0  # bytes of the body still to come
        self._error: OSError | None = None  # why the body is not stored
        self._garbled: str = ""
        self._begun: tuple[bytes, Any] | None = None

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._fd < 0

    @property
    def is_sending(self) -> bool:
        """Whether data waits to be sent; then call `flush` once the descriptor is writable."""
        return bool(self._waiting)

    def send(self, kind: bytes, head: Any = None, body: memoryview | int = -1) -> None:
        """Send a frame, now or with a later `flush`; ``body`` is a view, or the descriptor of a file.

        The body must not change until it is sent.  If the connection has ended, the frame is lost silently:
        `receive` reports the end.
        """
        packed = marshal.dumps(head)
        parts: list[memoryview | tuple[int, int, int]] = []
        size = 0
        if isinstance(body, memoryview):
            size = body.nbytes
            parts = [body]
        elif body >= 0:
            size = os.fstat(body).st_size
            parts = [(body, 0, size)]
        sizes = len(packed).to_bytes(4, "big") + size.to_bytes(8, "big")
        with self._lock:
            self._waiting += [memoryview(kind + sizes + packed), *parts]
            self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes."""
        with self._lock, defer_sigint():
            try:
                while self._waiting and self._fd >= 0:
                    rest = self._send_some(self._waiting[0])
                    self._waiting.popleft()
                    if rest is not None:
                        self._waiting.appendleft(rest)
            except BlockingIOError:
                pass
            except OSError:  # the other end is gone
                self._waiting.clear()

    def receive(self) -> Frame | None:
        """Return the next frame, or None while it is incomplete.

        Raises:
            GarbledError: the received data is not a frame.
            EOFError: the connection has ended; the message says how.
        """
        with self._lock, defer_sigint():
            if self._garbled:
                raise GarbledError(self._garbled)
            for _ in range(_TURN):
                frame = self._take()
                if frame is not None:
                    return frame
                if self._fd < 0 or not self._read():
                    return None
            return self._take()

    def next_kind(self) -> bytes:
        """Return the kind of the next frame, or b"" if none has begun to arrive."""
        with self._lock:
            if self._begun is not None:
                return self._begun[0]
            if self._came or self._fd < 0:
                return bytes(self._came[:1])
            sock = self._socket()
            try:
                return sock.recv(1, socket.MSG_PEEK)
            except OSError:
                return b""
            finally:
                sock.detach()

    def close(self) -> None:
        """Close this end.  May be called twice."""
        with self._lock:
            fd, self._fd = self._fd, -1
            self._waiting.clear()
            if fd >= 0:
                fds.drop(fd)
            if self._body >= 0:
                os.close(self._body)
                self._body = -1

    def _socket(self) -> fds.Borrowed:
        sock = fds.Borrowed(fileno=self._fd)
        sock.setblocking(False)
        return sock

    def _send_some(self, item: memoryview | tuple[int, int, int]) -> Any:
        """Send a part; return the rest of it, or None if nothing is left."""
        if isinstance(item, memoryview):
            sock = self._socket()
            try:
                sent = sock.send(item[:_CHUNK], NO_SIGNAL)
            finally:
                sock.detach()
            return item[sent:] if sent < len(item) else None
        file, start, end = item
        start += os.sendfile(self._fd, file, start, min(end - start, _CHUNK))
        return (file, start, end) if start < end else None

    def _read(self) -> bool:
        """Read a part of this frame, and nothing beyond it; return whether there may be more."""
        sock = self._socket()
        try:
            data = sock.recv(min(self._left, _CHUNK) or self._missing())
        except BlockingIOError:
            return False
        except OSError as error:
            raise EOFError(error.strerror or str(error)) from None
        finally:
            sock.detach()
        if not data:
            raise EOFError("the connection was closed")
        if self._left:
            self._left -= len(data)
            self._store(data)
        else:
            self._came += data
        return True

    def _store(self, data: bytes) -> None:
        """Store a part of a body; if that fails, drop the body, and let the frame say so."""
        try:
            if self._error is None:
                memory.write(self._body, data)
        except OSError as error:
            self._error = error
            os.close(self._body)
            self._body = -1

    def _missing(self) -> int:
        """Return how many bytes of the sizes, or then of the head, are still to come."""
        if len(self._came) < _HEAD:
            return _HEAD - len(self._came)
        size = int.from_bytes(self._came[1:5], "big")
        if size > _LARGEST_HEAD:
            raise self._give_up(f"a head of {size} bytes")
        return _HEAD + size - len(self._came)

    def _take(self) -> Frame | None:
        """Return the frame if it is complete, else None."""
        if self._begun is None and len(self._came) >= _HEAD and not self._missing():
            self._begin()
        if self._left or self._begun is None:
            return None
        frame = Frame(*self._begun, self._body, self._error)
        self._begun, self._body, self._error = None, -1, None
        return frame

    def _begin(self) -> None:
        """Unpack the head of a frame and prepare for its body."""
        try:
            head = marshal.loads(self._came[_HEAD:])
        except Exception as error:
            raise self._give_up(f"{type(error).__name__}: {error}") from None
        self._begun = bytes(self._came[:1]), head
        self._left = int.from_bytes(self._came[5:_HEAD], "big")
        self._came.clear()
        if self._left:
            try:
                self._body = memory.create("procession-payload")
            except OSError as error:
                self._error = error

    def _give_up(self, why: str) -> GarbledError:
        self._garbled = f"what came is no frame: {why}"
        return GarbledError(self._garbled)


def await_frame(link: Link, ends_with: int = -1) -> Frame:
    """Wait for the next frame; send waiting data meanwhile.

    Raises:
        EOFError: the connection has ended, or the descriptor ``ends_with`` is readable.
    """
    poll = select.poll()
    if ends_with >= 0:
        poll.register(ends_with, select.POLLIN)
    while (frame := link.receive()) is None:
        poll.register(link, select.POLLIN | (select.POLLOUT if link.is_sending else 0))
        if ends_with in dict(poll.poll()):
            raise EOFError("the process that started this agent has ended")
        link.flush()
    return frame


def await_end(link: Link) -> None:
    """Wait until the connection has ended."""
    try:
        while True:
            await_frame(link)
    except EOFError:
        pass


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Make the kernel end a connection whose other end has not answered for so many seconds (tcp(7)).

    The kernel sends three probes, the first after half of the time, but only while no data waits for an
    acknowledgement.  Therefore the idle one of an agent's two connections detects a lost peer.
    (TCP_USER_TIMEOUT would detect it on both, but would also end a connection whose peer is alive and does
    not read.)
    """
    idle = max(round(seconds * 0.3), 1)
    pause = max(round((seconds - idle) / 10), 1)
    probes = max(round((seconds - idle) / pause), 1)  # many: some are lost
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def is_unacknowledged(fd: int) -> bool:
    """Whether the other host has not acknowledged all data sent on a connection (tcp(7), SIOCOUTQ)."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, count)
    except OSError:
        return False
    return count[0] > 0
