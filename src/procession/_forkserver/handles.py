"""The caller's handles for ranks of a forkserver, which sends their exit codes and signals their groups."""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import signal
from collections.abc import Callable

from procession._cleanup.children import signal_group
from procession._launch.starting import abort_start, begin
from procession._linux import fds, messages
from procession._linux.procstat import is_ending, state_of
from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.fd_numbers import above_streams
from procession._rank.identity import name_process
from procession._supervise.channel import SocketChannel
from procession._supervise.process import RankProcess
from procession.protocol import Launch, Started

_PATIENCE = 1.0  # seconds in which a running server sends the exit codes that it knows
_RECHECK = 0.05  # seconds between checks for an exit code that another thread has read


class LaunchHandle:
    """The caller's end of a launch socket: receives exit codes and sends signals; `close` ends the ranks.

    Each exit code is one message, so that a signal handler may read in the middle of another read.
    """

    def __init__(
        self, sock: socket.socket, finish: Callable[[], None], server: RankProcess | None = None
    ) -> None:
        self._server = server
        self._fd = fds.keep(sock.detach())
        self._finish = finish
        self._codes: dict[int, int] = {}
        self._patience = _PATIENCE
        self._closed = False

    def exit_code(self, rank: int, patience: float) -> int | None:
        """Return a rank's exit code; None if the server does not send it within ``patience`` seconds.

        Waits that the server does not answer take at most a second per launch in total.
        """
        begun = monotonic()
        until = begun + min(patience, self._patience)
        while rank not in self._codes:
            came = self._read(min(max(until - monotonic(), 0), _RECHECK))
            if came is None or (not came and monotonic() >= until):
                self._patience -= monotonic() - begun
                break
        return self._codes.get(rank)

    def signal(self, rank: int, number: int) -> bool:
        """Ask the server to signal a rank's group; return False if the request could not be sent."""
        command = rank.to_bytes(messages.NUMBER, "big") + bytes([number])
        sock = None
        try:
            sock = fds.borrow(self._fd)
            sock.send(command, messages.NO_SIGNAL | socket.MSG_DONTWAIT)
        except OSError:  # the server is gone, or does not read
            return False
        finally:
            if sock is not None:
                sock.detach()
        return True

    @property
    def is_stopped(self) -> bool:
        """Whether the server is stopped (SIGSTOP): it then neither serves requests nor reaps ranks."""
        return self._server is not None and state_of(self._server.pid) in "Tt"

    def close(self) -> None:
        """Close the socket; the server then kills the ranks that are left.  May be called twice."""
        if not self._closed:
            self._closed = True
            fds.drop(self._fd)
            self._finish()

    def _read(self, timeout: float) -> bool | None:
        """Read one message; return whether one came in time, or None if no more can come."""
        if not unpatched.is_ready(self._fd, timeout):
            return False
        sock = None
        try:
            sock = fds.borrow(self._fd)
            data = sock.recv(2 * messages.NUMBER, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another thread was first
            return False
        except OSError:
            return None
        finally:
            if sock is not None:
                sock.detach()
        if not data:
            return None
        rank = int.from_bytes(data[: messages.NUMBER], "big")
        self._codes[rank] = int.from_bytes(data[messages.NUMBER :], "big", signed=True)
        return True


class ServedProcess(RankProcess):
    """A rank that is the server's child: the server collects its status and signals its group."""

    def __init__(
        self, pid: int, pidfd: int, *, name: str, daemon: bool, rank: int, launch: LaunchHandle
    ) -> None:
        super().__init__(pid, pidfd, name=name, daemon=daemon)
        self._rank, self._launch = rank, launch

    def _watch_end(self) -> None:
        """Watch nothing: the rank is not a child of this process."""

    def _collect(self, patience: float) -> None:
        with self._lock:
            if self._ended or not self._has_ended():
                return
            code = self._launch.exit_code(self._rank, patience)
            if code is None and not patience:
                return
            # None: the server is gone or stopped; UNKNOWN: it could not collect the status
            if code is None or code == messages.UNKNOWN:
                self._collect_reaped()
            else:
                self._settle(code)

    def _signal_group(self, number: int) -> bool:
        if self._launch.is_stopped:  # it reaps nothing, so the pid still belongs to the rank
            return signal_group(self.pid, number)
        asked = self._launch.signal(self._rank, number)
        # SIGKILL is also sent directly: the server may be stopped by then
        return asked and number != signal.SIGKILL


def make_handles(
    launch: Launch, pids: list[int], replies: list[int], handle: LaunchHandle
) -> Started:
    """Make handles from the descriptors that the server sent: for each rank a channel and a pidfd."""
    processes, channels = [], []
    for rank, pid in enumerate(pids):
        channels.append(SocketChannel(above_streams(replies[2 * rank])))
        pidfd = above_streams(replies[2 * rank + 1])
        name = name_process("forkserver", launch.identity, rank)
        process = ServedProcess(
            pid, pidfd, name=name, daemon=launch.daemon, rank=rank, launch=handle
        )
        processes.append(process)
    sentinels = [process.sentinel for process in processes]
    return Started(processes, sentinels, channels, on_finish=handle.close)


def begin_all(started: Started, server: RankProcess | None) -> None:
    """Let each rank begin, now that this process has handles for all of them.

    Raises:
        EOFError: the server has ended, and its ranks with it.
    """
    channels = [each for each in started.error_channels if isinstance(each, SocketChannel)]
    try:
        begun = [begin(channel) for channel in channels]
        lost = not all(begun) and (server is None or not server.is_alive() or is_ending(server.pid))
    except BaseException:
        abort_start(started)
        raise
    if lost:
        abort_start(started)
        raise EOFError("the server ended before its ranks began")
