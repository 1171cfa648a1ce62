"""The launcher's end of an error channel: reads the one report a rank sends, without ever blocking."""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import errno
import mmap
import os
import stat

from procession._linux import fds, messages
from procession._python import unpatched
from procession._rank import wire
from procession.protocol import Report

NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
"""The errors of a process, or a system, that can open no more files."""

_KINDS = {wire.RETURNED_NOTHING: "returned", wire.EXITED: "exited"}
_HOLES = 1 << 20  # bytes that a file may have which were never written


class UnreceivedError(OSError):
    """Raised where a result has come that this process has no descriptor for; it can be received later.

    Attributes:
        report: what can be said without it.
    """

    def __init__(self, number: int, time: int) -> None:
        super().__init__(number, os.strerror(number))
        self.report: Report = miss_result(self, time)


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
            EOFError: the rank's end is closed.
            UnreceivedError: a result has come, and there is no descriptor for it; it stays there.
            ValueError: what the rank sent is no report.
            OSError: it cannot be read.
        """
        while not self._closed:
            # only looked at first: what interrupts the caller here, a signal handler, then loses nothing
            data, files = self._look()
            if data is None:
                return None
            if not data:
                break
            try:
                frame = wire.decode(self._buffer + data)
                if frame is not None:
                    return to_report(*frame, files)
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

    def _look(self) -> tuple[bytes | None, list[int]]:
        try:
            return self._read(socket.MSG_PEEK)
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            data, _ = self._read(socket.MSG_PEEK, 0)
            frame = wire.decode(self._buffer + (data or b""))
            raise UnreceivedError(error.errno, 0 if frame is None else frame[1]) from None

    def _read(self, flags: int, count: int = 1) -> tuple[bytes | None, list[int]]:
        """Return what is there (None: nothing yet) and the descriptors that came along."""
        sock = fds.as_socket(self._fd)
        try:
            return messages.receive_some(sock, 1 << 16, count, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None, []
        except ConnectionResetError:
            self.left_unread = True  # unix(7)
            return b"", []
        finally:
            sock.detach()


def miss_result(error: OSError, time: int) -> Report:
    """Return the report of a rank whose result this process has no descriptor for."""
    advice = "this process has no descriptor left: raise its limit (ulimit -n), or close files"
    return Report("returned", time, text=f"it could not be received: {error.strerror}; {advice}")


def to_report(
    kind: bytes, time: int, fields: list[bytes], files: list[int] | None = None
) -> Report:
    """Return the report that a frame holds; ``files`` are the descriptors that came with it.

    Raises:
        ValueError: it holds none.
        OSError: what came with it cannot be read.
    """
    try:
        if kind == wire.RETURNED:
            return Report("returned", time, result=fields[0])
        if kind == wire.RETURNED_FILE:
            return Report("returned", time, result=_take_file((files or [])[0]))
        texts = [field.decode("utf-8", "replace") for field in fields[:3]]
        if kind == wire.RAISED:
            name, message, text = texts
            return Report("raised", time, name, message, text, exception=fields[3] or None)
        return Report(_KINDS[kind], time, text=texts[0])
    except LookupError:
        raise ValueError(f"a frame of kind {kind!r} with {len(fields)} parts") from None


def map_file(fd: int) -> memoryview:
    """Return a file's content, for as long as somebody looks at it; the descriptor stays the caller's."""
    try:
        return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    except OSError as error:
        if error.errno not in NO_DESCRIPTORS:  # a map has one of its own
            raise
        return _copy(fd)


def _take_file(fd: int) -> memoryview:
    """Return the content of a file that a rank has sent; one that the rank can still change is copied.

    Raises:
        ValueError: it is no file, or mostly holes.
    """
    import fcntl

    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("what came in place of a file is none")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # no file in memory
        seals = 0
    if seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_WRITE:
        return map_file(fd)
    if status.st_size > status.st_blocks * 512 + _HOLES:
        raise ValueError(f"a file of {status.st_size} bytes, most of which nobody has written")
    return _copy(fd)


def _copy(fd: int) -> memoryview:
    view = memoryview(bytearray(os.fstat(fd).st_size))
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], done)
        if not count:
            raise ValueError("a file that becomes shorter")
        done += count
    return view.toreadonly()
