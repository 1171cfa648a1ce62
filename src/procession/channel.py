"""The launcher's end of an error channel: reads the one report a rank sends, without ever blocking."""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import errno
import mmap

from procession import fds, messages, unpatched, wire
from procession.protocol import Report

_KINDS = {wire.RETURNED_NOTHING: "returned", wire.EXITED: "exited"}


class SocketChannel:
    """An `ErrorChannel` over one end of a socket pair."""

    def __init__(self, fd: int) -> None:
        self._fd = fds.keep(fd)
        self._buffer = bytearray()
        self._closed = False
        self.left_unread: bool = False
        """Whether the rank ended before it had read all that was sent to it."""

    @classmethod
    def open(cls) -> tuple[SocketChannel, int]:
        """Return a channel and the descriptor that its rank is to have."""
        with fds.LOCK:
            ours, theirs = fds.open_channel_pair()
            return cls(ours), theirs

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def receive(self) -> Report | None:
        """Return the report if it is complete, else None.

        Raises:
            EOFError: the rank's end is closed, or what it sent is no report.
        """
        while not self._closed:
            # only looked at first: what interrupts the caller here, a signal handler, then loses nothing
            data, files = self._read(socket.MSG_PEEK)
            if data is None:
                return None
            if not data:
                break
            try:
                frame = wire.decode(self._buffer + data)
                if frame is not None:
                    return to_report(*frame, files)
            except (ValueError, LookupError):
                break
            finally:
                for fd in files:
                    unpatched.close(fd)
            self._take_part()
        raise EOFError("the rank's end of the error channel is closed")

    def begin(self) -> None:
        """Let the rank begin: its launcher has hold of it.

        Raises:
            ConnectionError: it has ended.
        """
        sock = fds.as_socket(self._fd)
        try:
            sock.sendall(wire.BEGIN, messages.NO_SIGNAL)
        finally:
            sock.detach()

    def close(self) -> None:
        """Close this end."""
        if not self._closed:
            self._closed = True
            fds.drop(self._fd)

    def _take_part(self) -> None:
        """Take over an incomplete frame, so that the channel is readable only once there is more."""
        data, files = self._read(0)
        self._buffer += data or b""
        for fd in files:
            unpatched.close(fd)

    def _read(self, flags: int) -> tuple[bytes | None, list[int]]:
        """Return what is there (None: nothing yet) and the descriptors that came along."""
        sock = fds.as_socket(self._fd)
        try:
            return messages.receive_some(sock, 1 << 16, 1, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None, []
        except OSError as error:
            self.left_unread = error.errno == errno.ECONNRESET  # unix(7)
            return b"", []
        finally:
            sock.detach()


def to_report(
    kind: bytes, time: int, fields: list[bytes], files: list[int] | None = None
) -> Report:
    """Return the report that a frame holds; ``files`` are the descriptors that came with it.

    Raises:
        LookupError: the frame lacks a part.
    """
    if kind == wire.RETURNED:
        return Report("returned", time, result=fields[0])
    if kind == wire.RETURNED_FILE:
        return Report("returned", time, result=map_file((files or [])[0]))
    texts = [field.decode("utf-8", "replace") for field in fields[:3]]
    if kind == wire.RAISED:
        name, message, text = texts
        return Report("raised", time, name, message, text, exception=fields[3] or None)
    return Report(_KINDS[kind], time, text=texts[0])


def map_file(fd: int) -> memoryview:
    """Return a file's content, for as long as somebody looks at it; the descriptor stays the caller's."""
    return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
