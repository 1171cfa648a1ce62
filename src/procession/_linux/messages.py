"""Messages with descriptors between a caller and its forkserver, over a Unix stream socket."""

from __future__ import annotations

import _socket as socket
import array
import errno
import marshal
import os
import time

from procession._python import unpatched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_BATCH = 200  # descriptors in one system message; Linux takes at most 253 (unix(7))
_HEAD = 8
NEVER = float("inf")
_LONGEST = 1e9  # seconds; a socket takes a little more at most
UNKNOWN = -(1 << 31)
"""The exit code that a forkserver or an agent sends for a rank whose status was collected elsewhere."""

NUMBER = 4
"""Bytes of a rank and of an exit code in the messages of a forkserver or an agent."""
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # a closed end is an error, not a SIGPIPE


def send(sock: socket.socket, message: Any, fds: Sequence[int] = (), until: float = NEVER) -> None:
    """Send what `marshal` can carry, and descriptors, of which the receiver gets duplicates.

    Raises:
        TimeoutError: the receiver has not read enough of it by ``until`` (`time.monotonic`).
    """
    body = marshal.dumps(message)
    head = len(body).to_bytes(4, "big") + len(fds).to_bytes(4, "big")
    _bound(sock, until)
    sock.sendall(head, NO_SIGNAL)
    for start in range(0, len(fds), _BATCH):
        _bound(sock, until)
        send_with(sock, b"f", fds[start : start + _BATCH], NO_SIGNAL)
    _bound(sock, until)
    sock.sendall(body, NO_SIGNAL)


def send_with(sock: socket.socket, data: bytes, fds: Sequence[int], flags: int = 0) -> None:
    """Send some bytes with some descriptors, as `socket.send_fds` does."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([data], [rights], flags)


def receive(sock: socket.socket, until: float = NEVER) -> tuple[Any, list[int]]:
    """Return the next message and its descriptors.

    Raises:
        EOFError: the other end is closed.
        TimeoutError: the message has not arrived whole by ``until`` (`time.monotonic`).
    """
    head = _receive_all(sock, _HEAD, until)
    size, count = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    fds: list[int] = []
    try:
        while len(fds) < count:
            _bound(sock, until)
            data, some = receive_some(sock, 1, _BATCH)
            if not data:
                raise EOFError("the other end closed while it sent descriptors")  # noqa: TRY301
            fds += some
        return marshal.loads(_receive_all(sock, size, until)), fds
    except BaseException:
        for fd in fds:
            unpatched.close(fd)
        raise


def _bound(sock: socket.socket, until: float) -> None:
    """Limit the next call on a socket, so that it waits until ``until`` at most."""
    if until != NEVER:
        patience = min(until - time.monotonic(), _LONGEST)
        sock.settimeout(max(patience, 1e-6))  # 0 would not wait at all


def receive_some(
    sock: socket.socket, size: int, count: int, flags: int = 0
) -> tuple[bytes, list[int]]:
    """Return what has arrived: at most ``size`` bytes and ``count`` descriptors (closed on exec).

    `socket.recv_fds` does the same, but ignores its flags (Python 3.10 to 3.13).

    Raises:
        OSError: EMFILE, this process may not have so many descriptors.
    """
    numbers = array.array("i")
    space = socket.CMSG_LEN(count * numbers.itemsize)
    flags |= getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    data, ancillary, returned, _ = sock.recvmsg(size, space, flags)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    # RLIMIT_NOFILE: the kernel dropped some
    if returned & socket.MSG_CTRUNC and len(numbers) < count:
        for fd in numbers:
            unpatched.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return data, list(numbers)


def _receive_all(sock: socket.socket, size: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _bound(sock, until)
        try:
            part = sock.recv(size - len(data))
        except ConnectionResetError as error:
            raise EOFError("the other end closed before it had read everything") from error
        if not part:
            raise EOFError("the other end is closed")
        data += part
    return bytes(data)
