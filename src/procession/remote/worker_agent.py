"""Starts agents as children of an engine's workers, for engines that have worker processes."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import Any

from procession._linux import fds, memory
from procession._python.interpreter import compose_command
from procession.remote.handshake import greet_hub
from procession.remote.placement import VARIABLE, pack, unpack

_STOP_WAIT = 5.0  # seconds for an agent to end its rank and the rank's descendants


class HostedAgent:
    """An agent that this process, a worker of an engine, has started."""

    def __init__(self, popen: subprocess.Popen[bytes], pipe: int) -> None:
        self._popen = popen
        self._pipe = pipe  # the agent ends when this end is closed
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The process id of the agent."""
        return self._popen.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait at most ``timeout`` seconds for the agent's end; return its exit code, None if it runs."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Make the agent end its rank and exit, and wait for it; kill it after 5 s."""
        with self._lock:
            pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            fds.drop(pipe)
        if self.wait(_STOP_WAIT) is None:
            self._popen.kill()
            self._popen.wait()


def host_agent(
    description: str, rank: int, payload: bytes | memoryview | None = None, **changes: Any
) -> HostedAgent:
    """Start one agent as a child of this process, with the interpreter of this process.

    The agent ends when this process ends, whatever the cause.  It has its own session, so that a signal to
    the group of this process (Ray sends one when a worker has died) does not reach it.

    Args:
        description: `Agents.description`.
        rank: the rank that the agent holds.
        payload: the content of `Agents.payload`, if the engine has delivered it here.  One agent on each host
            is enough: the others share its file.  None: the hub sends it.
        changes: changes to the description: ``hub``, the address to connect to; ``address``, the address of
            this host for other ranks, if the connection does not show it.
    """
    with fds.LOCK:  # so that no fork of this process keeps the pipe open
        read, write = fds.open_pipe()
        fds.keep(write)
    files = {"ends_with": read}
    try:
        if payload is not None:
            files["payload"] = memory.file_of("procession-payload", payload)
        own = {**unpack(description), "rank": rank, "rank_variables": [], **changes, **files}
        popen = subprocess.Popen(
            compose_command("procession.remote.agent", "main", ()),
            stdin=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: pack(own)},
            pass_fds=list(files.values()),
            start_new_session=True,
        )
    except BaseException:
        fds.drop(write)
        raise
    finally:
        for fd in files.values():
            os.close(fd)
    return HostedAgent(popen, write)


def reaches_hub(description: str, timeout: float) -> bool:
    """Whether this process reaches the launch's hub, and not another program at the same address.

    Args:
        description: `Agents.description`.
        timeout: seconds for each step.
    """
    unpacked = unpack(description)
    try:
        with socket.create_connection(unpacked["hub"], timeout) as sock:
            greet_hub(sock, unpacked["secret"])
    except OSError:
        return False
    return True
