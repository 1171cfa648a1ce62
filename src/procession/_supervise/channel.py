"""The caller's end of an error channel: reads the one report that a rank sends, and never blocks."""

from __future__ import annotations

import _socket as socket  # constants and types, without the cost of `socket`
import errno
import mmap
import os
import stat

from procession._linux import fds, messages
from procession._python import unpatched
from procession._rank import wire
from procession.protocol import Report

NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
"""The errors when the process, or the system, has no descriptor left."""

_KINDS = {wire.RETURNED_NOTHING: "returned", wire.EXITED: "exited"}
_HOLES = 1 << 20  # bytes of a file that may be holes


class UnreceivedError(OSError):
    """Raised when this process has no descriptor for a result that came; it can be received later.

    Attributes:
        report: the report without the result.
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
        """Whether the rank ended before it read everything that it was sent."""

    @classmethod
    def open(cls) -> tuple[SocketChannel, int]:
        """Return a channel and the descriptor for its rank."""
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
            UnreceivedError: there is no descriptor for the result; the result stays in the channel.
            ValueError: the rank sent something other than a report.
            OSError: the channel cannot be read.
        """
        while not self._closed:
            # peek first, so that a signal handler that raises here loses nothing
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
        """Tell the rank to begin, now that its launcher can signal it.

        Raises:
            ConnectionError: the rank has ended.
        """
        sock = fds.borrow(self._fd)
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
        """Consume an incomplete frame, so that the channel becomes readable only when more comes."""
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
        """Return the data (None if there is none yet) and the descriptors that came with it."""
        sock = fds.borrow(self._fd)
        try:
            return messages.receive_some(sock, 1 << 16, count, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None, []
        except ConnectionResetError:
            self.left_unread = True  # unix(7): the peer closed with unread data
            return b"", []
        finally:
            sock.detach()


def miss_result(error: OSError, time: int) -> Report:
    """Return the report of a rank whose result came, but could not be received."""
    advice = "this process has no descriptor left: raise its limit (ulimit -n), or close files"
    return Report("returned", time, text=f"it could not be received: {error.strerror}; {advice}")


def to_report(
    kind: bytes, time: int, fields: list[bytes], files: list[int] | None = None
) -> Report:
    """Return the report in a frame; ``files`` are the descriptors that came with it.

    Raises:
        ValueError: the frame holds no report.
        OSError: a file that came with it cannot be read.
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
    """Return the content of a file; the view keeps it, and the caller closes the descriptor."""
    try:
        return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    except OSError as error:
        if error.errno not in NO_DESCRIPTORS:  # mmap duplicates the descriptor
            raise
        return _copy(fd)


def _take_file(fd: int) -> memoryview:
    """Return the content of a file that a rank sent; copy it if the rank can still change it.

    Raises:
        ValueError: it is not a regular file, or consists mostly of holes.
    """
    import fcntl

    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("the result is not in a regular file")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # not a memfd
        seals = 0
    if seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_WRITE:
        return map_file(fd)
    if status.st_size > status.st_blocks * 512 + _HOLES:
        raise ValueError(f"the result is in a file of {status.st_size} bytes that is mostly holes")
    return _copy(fd)


def _copy(fd: int) -> memoryview:
    view = memoryview(bytearray(os.fstat(fd).st_size))
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], done)
        if not count:
            raise ValueError("the file of the result has become shorter")
        done += count
    return view.toreadonly()
