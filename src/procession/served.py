"""Ranks that are children of a forkserver's server: their exit codes come from it, and signals through it."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable

from procession import fds, messages
from procession.process import RankProcess


class ServedLaunch:
    """A launch as its server knows it: tells exit codes, signals groups, ends when closed."""

    def __init__(self, sock: socket.socket, finish: Callable[[], None]) -> None:
        self._fd = fds.keep(sock.detach())
        self._finish = finish
        self._codes: dict[int, int] = {}
        self._buffer = b""
        self._lock = threading.Lock()

    def exit_code(self, rank: int, patience: float) -> int | None:
        """Return a rank's exit code, waiting for at most ``patience`` seconds; None if not told."""
        deadline = time.monotonic() + patience
        with self._lock:
            while rank not in self._codes:
                if not self._read(max(deadline - time.monotonic(), 0)):
                    break
            return self._codes.get(rank)

    def signal(self, rank: int, number: int) -> bool:
        """Ask the server to signal a rank's group; return whether it was asked."""
        command = rank.to_bytes(messages.NUMBER, "big") + bytes([number])
        sock = None
        try:
            sock = fds.as_socket(self._fd)
            sock.sendall(command, messages.NO_SIGNAL)
        except OSError:
            return False
        finally:
            if sock is not None:
                sock.detach()
        return True

    def close(self) -> None:
        """Let go of the launch: the server kills what is left of it."""
        fds.drop(self._fd)
        self._finish()

    def _read(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        try:
            data = os.read(self._fd, 4096)
        except OSError:
            return False
        self._buffer += data
        while len(self._buffer) >= 2 * messages.NUMBER:
            record, self._buffer = (
                self._buffer[: 2 * messages.NUMBER],
                self._buffer[2 * messages.NUMBER :],
            )
            rank = int.from_bytes(record[: messages.NUMBER], "big")
            self._codes[rank] = int.from_bytes(record[messages.NUMBER :], "big", signed=True)
        return bool(data)


class ServedProcess(RankProcess):
    """A rank that is the server's child: the server collects its status and signals its group."""

    def __init__(
        self, pid: int, pidfd: int, *, name: str, daemon: bool, rank: int, launch: ServedLaunch
    ) -> None:
        super().__init__(pid, pidfd, name=name, daemon=daemon)
        self._rank, self._launch = rank, launch

    def _collect(self, patience: float) -> None:
        with self._lock:
            if self._ended or not self._has_ended():
                return
            code = self._launch.exit_code(self._rank, patience)
            if code is not None:
                self._settle(code)
            elif patience:  # the server is gone, or stopped
                self._collect_reaped()

    def _signal_group(self, number: int) -> bool:
        return self._launch.signal(self._rank, number)
