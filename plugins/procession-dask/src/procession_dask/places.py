"""A rank's place on a worker: one task takes it, once, and holds it until the agent has ended."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from procession.remote import HostedAgent, host_agent
from procession.remote.relay import WorkerRelay

_LOOK = 0.5  # seconds between checks whether the agent is still wanted


@dataclass(frozen=True, slots=True)
class Ticket:
    """The arguments of `procession.remote.host_agent` for the agent of a place."""

    description: str
    rank: int
    payload: bytes | None
    changes: dict[str, Any]


class Place:
    """One rank's place.  A task that Dask executes again finds it taken, or no place.

    With a relay, the agent's messages use Dask's connections; the caller calls the relay by `call`.
    """

    def __init__(self, ticket: Ticket, relay: WorkerRelay | None) -> None:
        self.relay: WorkerRelay | None = relay
        self._ticket: Ticket | None = ticket
        self._lock = threading.Lock()
        self._agent: HostedAgent | None = None
        # two own threads: a pull may wait, and must delay neither a push nor other users of Dask's pool
        self._threads = ThreadPoolExecutor(2, "procession-relay") if relay is not None else None

    @property
    def is_taken(self) -> bool:
        """Whether the task has taken the place, or the place was given up."""
        return self._ticket is None

    def hold(self, is_wanted: Callable[[], bool]) -> None:
        """Start the agent and wait for its end; end it once it is not wanted any more.

        Raises:
            RuntimeError: the place is taken, or the agent has failed.
        """
        with self._lock:
            ticket, self._ticket = self._ticket, None
            if ticket is None:
                raise RuntimeError("the rank's place was given up, or has had its agent")
            rank = ticket.rank
            try:
                agent = self._agent = self._start(ticket)
            except BaseException:
                self._close()
                raise
        del ticket  # with the payload
        code = self._await(agent, is_wanted)
        if code:
            raise RuntimeError(
                f"the agent of rank {rank} on {os.uname().nodename} has ended with exit code {code}; "
                "its output is in this worker's standard error"
            )

    def give_up(self) -> None:
        """Prevent an agent from starting here, or end the one that runs, and wait for its end."""
        with self._lock:
            self._ticket = None
        self._stop()
        self._close()

    async def call(self, name: str, *args: Any) -> Any:
        """Call a method of the relay without blocking Dask's event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, getattr(self.relay, name), *args)

    def _start(self, ticket: Ticket) -> HostedAgent:
        hub = {} if self.relay is None else {"hub": self.relay.address}
        return host_agent(ticket.description, ticket.rank, ticket.payload, **ticket.changes, **hub)

    def _await(self, agent: HostedAgent, is_wanted: Callable[[], bool]) -> int | None:
        wanted = True
        while not _await_end(agent, _LOOK):
            wanted = wanted and is_wanted()
            if not wanted:
                self._stop()
        code = agent.wait()
        self._stop()  # closes the pipe that keeps it alive
        if self.relay is not None and wanted:
            self.relay.finish()
        self._close()
        return code

    def _stop(self) -> None:
        with self._lock:  # the task and Dask's event loop may both call it
            if self._agent is not None:
                self._agent.stop()

    def _close(self) -> None:
        if self.relay is not None:
            self.relay.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)


def _await_end(agent: HostedAgent, seconds: float) -> bool:
    """Wait for the end of an agent; return whether it has ended."""
    if agent.wait(0) is not None:
        return True
    try:
        fd = os.pidfd_open(agent.pid)
    except OSError:  # the process has ended, or the kernel lacks the system call
        return agent.wait(seconds) is not None
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(fd)
