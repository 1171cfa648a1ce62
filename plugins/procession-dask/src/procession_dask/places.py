"""A rank's place on a worker: kept for the task that takes it, once, until its agent has ended."""

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

_LOOK = 0.5  # seconds between looks at whether the agent is still wanted


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the agent of a place is started with; see `procession.remote.host_agent`."""

    description: str
    rank: int
    payload: bytes | None
    changes: dict[str, Any]


class Place:
    """One rank's place.  A task that is executed again finds it taken, or none at all.

    With a relay the agent's connections go through Dask's; `call` is how the caller calls that.
    """

    def __init__(self, ticket: Ticket, relay: WorkerRelay | None) -> None:
        self.relay: WorkerRelay | None = relay
        self._ticket: Ticket | None = ticket
        self._lock = threading.Lock()
        self._agent: HostedAgent | None = None
        # of its own: a pull that waits must be in nobody's way, and no pull in that of a push
        self._threads = ThreadPoolExecutor(2, "procession-relay") if relay is not None else None

    @property
    def is_taken(self) -> bool:
        """Whether the task has come, or is not to come any more."""
        return self._ticket is None

    def hold(self, is_wanted: Callable[[], bool]) -> None:
        """Start the agent, and wait for its end; end it if it is wanted no more.

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
                "what it said is where this worker's standard error goes"
            )

    def give_up(self) -> None:
        """Have no agent start here, and end the one that has; wait for that."""
        with self._lock:
            self._ticket = None
        self._stop()
        self._close()

    async def call(self, name: str, *args: Any) -> Any:
        """Call a method of the relay, without holding up Dask's event loop."""
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
        self._stop()  # closes what keeps it alive
        if self.relay is not None and wanted:
            self.relay.finish()
        self._close()
        return code

    def _stop(self) -> None:
        with self._lock:  # both its task and Dask's event loop may want that
            if self._agent is not None:
                self._agent.stop()

    def _close(self) -> None:
        if self.relay is not None:
            self.relay.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)


def _await_end(agent: HostedAgent, seconds: float) -> bool:
    """Wait for the end of an agent; return whether it has come."""
    if agent.wait(0) is not None:
        return True
    try:
        fd = os.pidfd_open(agent.pid)
    except OSError:  # no such process any more, or no such system call
        return agent.wait(seconds) is not None
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(fd)
