"""One TCP connection between a hub and an agent that have greeted each other: frames, and no waiting.

A frame is its kind (1 byte), the sizes of its head (4 bytes) and body (8 bytes), the head (`marshal`) and
the body (bytes as they are, which the receiver keeps in memory as a file).
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

HELLO, ORDERS, PAYLOAD, SHARE = b"h", b"o", b"p", b"s"
WANTED, STARTED, UNABLE = b"w", b"b", b"u"
REPORT, RESULT, STACKS, EVIDENCE = b"r", b"v", b"t", b"e"
SIGNAL, ASK, FINISH = b"k", b"a", b"f"
"""The kinds of frames; see `agent` and `dispatch` for who sends which."""

_HEAD = 13
_LARGEST_HEAD = 1 << 28  # bytes; what is large travels in bodies
_CHUNK = 1 << 20  # bytes that are read or sent at once
_TURN = 16  # chunks that one call reads at most: others have their turn then


class GarbledError(EOFError):
    """Raised where what came on a connection is no frame; nothing that follows can be understood."""


class Frame(NamedTuple):
    """What came: ``head`` is what `marshal` can carry, ``body`` the descriptor of a file, or -1.

    ``error`` says why there is no file for a body that came.
    """

    kind: bytes
    head: Any
    body: int = -1
    error: OSError | None = None


class Link:
    """One end of a connection; nothing in it blocks, and it may be used from any thread.

    It never reads beyond the frame that `receive` returns: if more has come, the descriptor is readable.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host: str = sock.getsockname()[0]
        """The address that this end has."""
        with fds.LOCK:
            self._fd = fds.keep(above_streams(sock.detach()))
        self._lock = RLock()
        self._waiting: deque[memoryview | tuple[int, int, int]] = deque()
        self._came = bytearray()
        self._body = -1
        self._left = 0  # bytes of the body that have not come
        self._error: OSError | None = None  # why they are not kept
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
        """Whether something waits to be sent: call `flush` once there is room for it."""
        return bool(self._waiting)

    def send(self, kind: bytes, head: Any = None, body: memoryview | int = -1) -> None:
        """Send a frame, now or with a later `flush`; ``body`` is a view, or the descriptor of a file.

        Either must stay as it is until all is sent.  What cannot be sent any more is lost silently: the
        end of the connection shows where it is read.
        """
        told = marshal.dumps(head)
        parts: list[memoryview | tuple[int, int, int]] = []
        size = 0
        if isinstance(body, memoryview):
            size = body.nbytes
            parts = [body]
        elif body >= 0:
            size = os.fstat(body).st_size
            parts = [(body, 0, size)]
        sizes = len(told).to_bytes(4, "big") + size.to_bytes(8, "big")
        with self._lock:
            self._waiting += [memoryview(kind + sizes + told), *parts]
            self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
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
        """Return the next frame, None while it is not complete.

        Raises:
            GarbledError: what came is no frame.
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
        """Return the kind of the frame that `receive` would give next, an empty one if none has begun."""
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

    def _socket(self) -> socket.socket:
        sock = socket.socket(fileno=self._fd)
        sock.setblocking(False)
        return sock

    def _send_some(self, item: memoryview | tuple[int, int, int]) -> Any:
        """Send a part; return what is left of it, None if nothing is."""
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
        """Read a part of this frame, and nothing of the next; return whether there may be more."""
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
            self._keep(data)
        else:
            self._came += data
        return True

    def _keep(self, data: bytes) -> None:
        """Keep a part of a body; what there is no room for is lost, and the frame says so."""
        try:
            if self._error is None:
                memory.write(self._body, data)
        except OSError as error:
            self._error = error
            os.close(self._body)
            self._body = -1

    def _missing(self) -> int:
        """Return how many bytes of a frame's head have not come, as far as that is known."""
        if len(self._came) < _HEAD:
            return _HEAD - len(self._came)
        size = int.from_bytes(self._came[1:5], "big")
        if size > _LARGEST_HEAD:
            raise self._give_up(f"a head of {size} bytes")
        return _HEAD + size - len(self._came)

    def _take(self) -> Frame | None:
        """Return the frame that is complete, if one is."""
        if self._begun is None and len(self._came) >= _HEAD and not self._missing():
            self._begin()
        if self._left or self._begun is None:
            return None
        frame = Frame(*self._begun, self._body, self._error)
        self._begun, self._body, self._error = None, -1, None
        return frame

    def _begin(self) -> None:
        """Take the head of a frame, whose body is then still to come."""
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


def await_frame(link: Link, guard: int = -1) -> Frame:
    """Wait for the next frame, sending meanwhile.

    Raises:
        EOFError: the connection has ended, or the descriptor ``guard`` is readable.
    """
    poll = select.poll()
    if guard >= 0:
        poll.register(guard, select.POLLIN)
    while (frame := link.receive()) is None:
        poll.register(link, select.POLLIN | (select.POLLOUT if link.is_sending else 0))
        if guard in dict(poll.poll()):
            raise EOFError("whoever has started this agent is gone")
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
    """Have the kernel end a connection whose other end has not answered for so long (tcp(7)).

    It asks after half of the time, and then thrice, where nothing waits to be acknowledged.  So of an agent's
    two connections the one on which nothing is said tells whether the other end is there.  (TCP_USER_TIMEOUT
    would tell it of both, but also end one whose other end is there and does not read.)
    """
    probe = max(round(seconds / 6), 1)
    idle = max(round(seconds) - 3 * probe, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def is_unacknowledged(fd: int) -> bool:
    """Whether something was sent on a connection that the other end's host has not got (tcp(7), SIOCOUTQ)."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, count)
    except OSError:
        return False
    return count[0] > 0
