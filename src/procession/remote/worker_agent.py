"""For engines that have workers of their own: an agent as a child of one, which ends with it."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Any

from procession._linux import fds, memory
from procession._python.interpreter import compose_command
from procession.remote.placement import VARIABLE, pack, unpack

_STOP_WAIT = 5.0  # seconds that an agent has to end its rank, and what that has started


class HostedAgent:
    """An agent that a worker of an engine has started."""

    def __init__(self, popen: subprocess.Popen[bytes], guard: int) -> None:
        self._popen = popen
        self._guard = guard
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended, for at most ``timeout`` seconds; return its exit code, None if it runs."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Have it end its rank and itself, if it runs, and wait for that."""
        with self._lock:
            guard, self._guard = self._guard, -1
        if guard >= 0:
            fds.drop(guard)
        if self.wait(_STOP_WAIT) is None:
            self._popen.kill()
            self._popen.wait()


def host_agent(
    description: str, rank: int, payload: bytes | memoryview | None = None, **changes: Any
) -> HostedAgent:
    """Start one agent as a child of this process, by this process's own interpreter.

    It ends when this process does, however that comes, and has a session of its own: a signal to this
    process's group (Ray sends one when a worker has died) is not to look like one to the rank.

    Args:
        description: that of `Agents`.
        rank: which rank it is to hold.
        payload: the content of `Agents.payload`, where the engine has brought it here (to one agent of each
            host is enough: the others there share its file); None: the hub sends it.
        changes: what is to be different in the description: ``hub``, the address to connect to; ``address``,
            that of this host for other ranks, where the connection does not show it.
    """
    with fds.LOCK:  # what this process forks is not to hold the guard as well
        read, write = fds.open_pipe()
        fds.keep(write)
    files = {"guard": read}
    try:
        if payload is not None:
            files["payload"] = memory.file_of("procession-payload", payload)
        told = {**unpack(description), "rank": rank, "rank_variables": [], **changes, **files}
        popen = subprocess.Popen(
            compose_command("procession.remote.agent", "main", ()),
            stdin=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: pack(told)},
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
