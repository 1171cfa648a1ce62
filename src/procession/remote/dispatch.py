"""Tells agents their orders, brings them the payload, and waits until each has started its rank."""

from __future__ import annotations

import marshal
import os
import selectors
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._launch.rendezvous import compose_variables, find_master
from procession._linux import fds
from procession._python.interpreter import interpreter_flags
from procession.exceptions import StartError
from procession.protocol import Launch
from procession.remote import link as frames
from procession.remote.agent_connection import AgentConnection, number_locally

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec

SHARED_FROM = 1 << 20
"""Bytes of a payload from which on it is sent once to a host, and not to each of its agents."""


class Dispatch(NamedTuple):
    """What the ranks of a launch are told; ``payload`` is a file with the pickled fn and args."""

    launch: Launch
    spec: bytes
    payload: int

    @classmethod
    def of(cls, launch: Launch, spec: BootstrapSpec, payload: int) -> Dispatch:
        """Return the briefing for orders, which are the same for all ranks but for their places."""
        return cls(launch, marshal.dumps(dict(spec)), payload)

    def give(self, connections: list[AgentConnection], patience: float) -> list[int]:
        """Tell each agent its orders; return the process ids of the ranks that they have started.

        ``patience`` is how long (seconds) nothing may happen.

        Raises:
            StartError: an agent could not start its rank, or is gone.
        """
        shared = os.fstat(self.payload).st_size >= SHARED_FROM
        round_ = _Round(self, connections, shared=shared)
        try:
            round_.begin()
            while len(round_.pids) < len(connections):
                round_.advance(patience)
            round_.end()
        finally:
            round_.close()
        return [round_.pids[rank] for rank in range(len(connections))]

    def compose(
        self,
        connection: AgentConnection,
        place: tuple[int, int],
        group: int,
        first: Mapping[str, Any],
        *,
        shares: bool,
    ) -> dict[str, Any]:
        """Return the orders of one agent; ``first`` is what rank 0's has said of itself."""
        changes: dict[str, str | None] = {}
        if self.launch.rendezvous:
            master = find_master(os.environ) or (first["master"][0], first["master"][1])
            nprocs = self.launch.nprocs
            changes.update(compose_variables(connection.rank, nprocs, place, group, master))
        changes.update(self.launch.environments[connection.rank])
        return {
            "shares": shares,
            "orders": self.spec,
            "place": place,
            "prefix": sys.prefix,
            "flags": interpreter_flags(),
            "changes": changes,
            "keep_daemons": self.launch.keep_daemons,
            "forward": [int(number) for number in self.launch.signals.forward],
        }

    def fail(self, connection: AgentConnection, came: int, reason: str) -> StartError:
        """Return the error for a rank that could not be started."""
        launch = self.launch
        told = f"rank {connection.rank} on {connection.host}: {reason}"
        return StartError(launch.start_method, nprocs=launch.nprocs, came=came, reason=told)


class _Round:
    """One briefing under way."""

    def __init__(
        self, dispatch: Dispatch, connections: list[AgentConnection], *, shared: bool
    ) -> None:
        self.dispatch = dispatch
        self.connections = connections
        self.shared = shared
        self.pids: dict[int, int] = {}
        self._hosts: dict[tuple[Any, ...], list[AgentConnection]] = {}
        self._selector = fds.make_selector()

    def begin(self) -> None:
        """Send the orders, and the payload to those that are to have it from here."""
        first = self.connections[0].hello
        for connection in self.connections:
            self._hosts.setdefault(connection.place, []).append(connection)
        for neighbours in self._hosts.values():  # one that has the payload already shares it
            neighbours.sort(key=lambda connection: not connection.has_payload)
        hosts = list(dict.fromkeys(connection.host for connection in self.connections))
        for connection, place in zip(
            self.connections, number_locally(self.connections), strict=True
        ):
            self._selector.register(connection.control, selectors.EVENT_READ, connection)
            shares = self.shared and self._hosts[connection.place][0] is connection
            connection.control.send(
                frames.ORDERS,
                self.dispatch.compose(
                    connection, place, hosts.index(connection.host), first, shares=shares
                ),
            )
            if not connection.has_payload and (shares or not self.shared):
                connection.control.send(frames.PAYLOAD, None, self.dispatch.payload)
            self._await_room(connection)

    def advance(self, patience: float) -> None:
        """Wait for the next events, and act on them."""
        events = self._selector.select(patience)
        if not events:
            late = next(
                connection for connection in self.connections if connection.rank not in self.pids
            )
            raise self._fail(late, f"for {patience:g} s it has not said that the rank was started")
        for key, ready in events:
            connection: AgentConnection = key.data
            if ready & selectors.EVENT_WRITE:
                connection.control.flush()
            if ready & selectors.EVENT_READ:
                self._hear(connection)
            if connection.rank not in self.pids:
                self._await_room(connection)

    def end(self) -> None:
        """Have those that shared the payload let go of it."""
        for neighbours in self._hosts.values() if self.shared else ():
            neighbours[0].control.send(frames.SHARE)

    def close(self) -> None:
        """Free what is only needed meanwhile."""
        self._selector.close()

    def _hear(self, connection: AgentConnection) -> None:
        try:
            frame = connection.control.receive()
        except EOFError as error:
            raise self._fail(connection, f"contact with its agent is gone: {error}") from None
        if frame is None:
            return
        if frame.kind == frames.STARTED and isinstance(frame.head, int):
            self.pids[connection.rank] = frame.head
            self._selector.unregister(connection.control)
        elif frame.kind == frames.SHARE:
            for other in self._hosts[connection.place][1:]:
                if not other.has_payload:
                    other.control.send(frames.SHARE, frame.head)
        elif frame.kind == frames.WANTED:  # it cannot read that of another on its host
            connection.control.send(frames.PAYLOAD, None, self.dispatch.payload)
        else:
            raise self._fail(connection, str(frame.head))

    def _await_room(self, connection: AgentConnection) -> None:
        """Wait for room as well, as long as something is to be sent."""
        wanted = selectors.EVENT_WRITE if connection.control.is_sending else 0
        self._selector.modify(connection.control, selectors.EVENT_READ | wanted, connection)

    def _fail(self, connection: AgentConnection, reason: str) -> StartError:
        return self.dispatch.fail(connection, len(self.pids), reason)
