"""The launcher's side of forkservers: one server for each configuration, and the launches it serves."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Any

from procession import fds, guard, messages
from procession.channel import SocketChannel
from procession.exceptions import note_on
from procession.interpreter import interpreter_flags, start_interpreter
from procession.process import RankProcess
from procession.protocol import Launch, Started
from procession.starting import name_process, undo

_STATUS = 4


@dataclass(frozen=True, slots=True)
class Configuration:
    """What makes two launches share a server: the imports it has made, and how it found them."""

    executable: str
    flags: tuple[str, ...]
    sys_path: tuple[str, ...]
    main: tuple[str, str] | None
    preload: tuple[str, ...]

    @classmethod
    def of_now(cls, main: tuple[str, str] | None, preload: tuple[str, ...]) -> Configuration:
        """Return the configuration that a launch of this moment needs."""
        return cls(sys.executable, tuple(interpreter_flags()), tuple(sys.path), main, preload)


class ServedLaunch:
    """A launch as its server knows it: tells exit codes, signals groups, ends when closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = fds.keep(sock.detach())
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
        try:
            os.write(self._fd, rank.to_bytes(_STATUS, "big") + bytes([number]))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the launch: the server kills what is left of it."""
        fds.drop(self._fd)

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
        while len(self._buffer) >= 2 * _STATUS:
            record, self._buffer = self._buffer[: 2 * _STATUS], self._buffer[2 * _STATUS :]
            rank = int.from_bytes(record[:_STATUS], "big")
            self._codes[rank] = int.from_bytes(record[_STATUS:], "big", signed=True)
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


class Server:
    """One server process and the socket to it."""

    def __init__(self, configuration: Configuration) -> None:
        ours, theirs = fds.open_channel_pair()
        self._fd = fds.keep(ours)
        try:
            popen = start_interpreter(
                "procession.server",
                "main",
                (theirs, guard.death_pipe()),
                pass_fds=(theirs, guard.death_pipe()),
                env=os.environ,
                new_session=True,
            )
        finally:
            os.close(theirs)
        popen.returncode = 0  # the RankProcess below reaps it
        self.process = RankProcess.of_child(popen.pid, name="procession-forkserver", daemon=True)
        self._configure(configuration)

    def start(self, launch: Launch, request: dict[str, Any], handed: list[int]) -> Started:
        """Have all ranks of a launch forked.

        Raises:
            EOFError: the server is gone; no rank has begun.
            OSError: the server cannot fork them all; none is left.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._control() as control:
                _send(control, request, [theirs.fileno(), *handed])
            try:
                reply, replies = messages.receive(ours)
            except OSError as error:
                note_on(error, f"while taking over the descriptors of {launch.nprocs} ranks")
                raise
            if "errno" in reply:
                failed = OSError(reply["errno"], reply["strerror"])
                note_on(failed, f"while starting rank {reply['rank']} of {launch.nprocs}")
                raise failed
            return _let_go(launch, reply["pids"], replies, ServedLaunch(ours))

    def close(self) -> None:
        """End the server, and with it whatever it still serves."""
        fds.drop(self._fd)
        self.process.kill()
        self.process.join(3)
        self.process.release()

    def _configure(self, configuration: Configuration) -> None:
        message = {
            "sys_path": list(configuration.sys_path),
            "argv": list(sys.argv),
            "main": configuration.main,
            "preload": configuration.preload,
        }
        with self._control() as control:
            _send(control, message, [])
            told, _ = messages.receive(control)
        for name, text in told["failed"]:
            warnings.warn(f"the forkserver cannot import {name}:\n{text}", RuntimeWarning, 2)
        if told["threads"]:
            names = ", ".join(told["threads"])
            text = "what the forkserver imported left threads running, which fork does not copy"
            warnings.warn(f"{text}: {names}", RuntimeWarning, stacklevel=2)

    def _control(self) -> socket.socket:
        """Return the socket to the server, to be closed after use: this object keeps its own."""
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(self._fd))


_servers: dict[Configuration, Server] = {}
_owner = 0
_lock = threading.Lock()


def start_on_server(
    configuration: Configuration, launch: Launch, request: dict[str, Any], handed: list[int]
) -> Started:
    """Start a launch on the configuration's server; a dead one is replaced, once."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # a fork of the process that had the servers
            _servers.clear()
            _owner = os.getpid()
        server = _servers.get(configuration)
        if server is not None:
            try:
                return server.start(launch, request, handed)
            except (EOFError, ConnectionError):
                _servers.pop(configuration).close()
        server = Server(configuration)
        _servers[configuration] = server
        return server.start(launch, request, handed)


def stop_servers() -> None:
    """End all servers of this process, and the ranks that they still serve."""
    with _lock:
        for configuration in list(_servers):
            _servers.pop(configuration).close()


def _send(control: socket.socket, message: Any, handed: list[int]) -> None:
    try:
        messages.send(control, message, handed)
    except BrokenPipeError:
        raise EOFError("the forkserver is gone") from None


def _let_go(launch: Launch, pids: list[int], replies: list[int], served: ServedLaunch) -> Started:
    """Make handles of what the server sent, and tell each rank to begin."""
    processes, channels = [], []
    for rank, pid in enumerate(pids):
        channels.append(SocketChannel(fds.above_streams(replies[2 * rank])))
        pidfd = fds.above_streams(replies[2 * rank + 1])
        name = name_process("forkserver", rank)
        process = ServedProcess(
            pid, pidfd, name=name, daemon=launch.daemon, rank=rank, launch=served
        )
        processes.append(process)
    sentinels = [process.sentinel for process in processes]
    try:
        for channel in channels:
            channel.send(b"g")
    except OSError as error:
        undo(zip(processes, sentinels, channels, strict=True))
        served.close()
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            raise EOFError("a rank was gone before it began") from error
        raise
    return Started(processes, sentinels, channels, on_finish=served.close)
