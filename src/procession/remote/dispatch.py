"""Sends each agent its spec and the payload, and waits until all have started their ranks."""

from __future__ import annotations

import marshal
import os
import selectors
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._launch.rendezvous import compose_variables, find_master
from procession._linux import fds
from procession._python.interpreter import interpreter_flags
from procession.exceptions import StartError
from procession.protocol import Launch
from procession.remote import link as frames
from procession.remote.agent_connection import AgentConnection, number_locally
from procession.remote.messages import ControlHello, SpecMessage
from procession.remote.placement import SHARED_FROM

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec


class Dispatch(NamedTuple):
    """What agents need to start the ranks of a launch.

    ``spec`` is the marshalled spec; ``payload`` is the descriptor of a file with the pickled fn and args.
    """

    launch: Launch
    spec: bytes
    payload: int

    @classmethod
    def of(cls, launch: Launch, spec: BootstrapSpec, payload: int) -> Dispatch:
        """Return the dispatch of a spec, which is the same for all ranks except for their places."""
        return cls(launch, marshal.dumps(dict(spec)), payload)

    def give(self, connections: list[AgentConnection], patience: float) -> list[int]:
        """Send all agents what they need; return the process ids of the ranks that they started.

        ``patience`` is the longest time (seconds) without any event.

        Raises:
            StartError: an agent could not start its rank, or is gone.
        """
        shared = os.fstat(self.payload).st_size >= SHARED_FROM
        delivery = _Delivery(self, connections, shared=shared)
        try:
            delivery.begin()
            while len(delivery.pids) < len(connections):
                delivery.advance(patience)
            delivery.end()
        finally:
            delivery.close()
        return [delivery.pids[rank] for rank in range(len(connections))]

    def compose(
        self,
        connection: AgentConnection,
        place: tuple[int, int],
        group: int,
        first: ControlHello,
        *,
        shares: bool,
    ) -> SpecMessage:
        """Return the message for one agent; ``first`` is the hello of the agent of rank 0."""
        changes: dict[str, str | None] = {}
        if self.launch.rendezvous:
            master = find_master(os.environ) or (first["master"][0], first["master"][1])
            nprocs = self.launch.nprocs
            changes.update(compose_variables(connection.rank, nprocs, place, group, master))
        changes.update(self.launch.environments[connection.rank])
        return {
            "shares": shares,
            "spec": self.spec,
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
        reason = f"rank {connection.rank} on {connection.host}: {reason}"
        return StartError(launch.start_method, nprocs=launch.nprocs, came=came, reason=reason)


class _Delivery:
    """The state of one dispatch."""

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
        """Send the specs, and the payload to the agents that get it from this process."""
        first = self.connections[0].hello
        for connection in self.connections:
            self._hosts.setdefault(connection.place, []).append(connection)
        for neighbours in self._hosts.values():  # first an agent that has the payload: it shares it
            neighbours.sort(key=lambda connection: not connection.has_payload)
        hosts = list(dict.fromkeys(connection.host for connection in self.connections))
        for connection, place in zip(
            self.connections, number_locally(self.connections), strict=True
        ):
            self._selector.register(connection.control, selectors.EVENT_READ, connection)
            shares = self.shared and self._hosts[connection.place][0] is connection
            connection.control.send(
                frames.SPEC,
                self.dispatch.compose(
                    connection, place, hosts.index(connection.host), first, shares=shares
                ),
            )
            if not connection.has_payload and (shares or not self.shared):
                connection.control.send(frames.PAYLOAD, None, self.dispatch.payload)
            self._await_room(connection)

    def advance(self, patience: float) -> None:
        """Wait for the next events and act on them."""
        events = self._selector.select(patience)
        if not events:
            late = next(
                connection for connection in self.connections if connection.rank not in self.pids
            )
            raise self._fail(
                late, f"it did not confirm the start of the rank within {patience:g} s"
            )
        for key, ready in events:
            connection: AgentConnection = key.data
            if ready & selectors.EVENT_WRITE:
                connection.control.flush()
            if ready & selectors.EVENT_READ:
                self._receive(connection)
            if connection.rank not in self.pids:
                self._await_room(connection)

    def end(self) -> None:
        """Tell agents that share the payload to close it."""
        for neighbours in self._hosts.values() if self.shared else ():
            neighbours[0].control.send(frames.SHARE)

    def close(self) -> None:
        """Free the selector."""
        self._selector.close()

    def _receive(self, connection: AgentConnection) -> None:
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
        elif frame.kind == frames.WANTED:  # it cannot open the file of another agent on its host
            connection.control.send(frames.PAYLOAD, None, self.dispatch.payload)
        else:
            raise self._fail(connection, str(frame.head))

    def _await_room(self, connection: AgentConnection) -> None:
        """Also wait for room in the socket while something waits to be sent."""
        wanted = selectors.EVENT_WRITE if connection.control.is_sending else 0
        self._selector.modify(connection.control, selectors.EVENT_READ | wanted, connection)

    def _fail(self, connection: AgentConnection, reason: str) -> StartError:
        return self.dispatch.fail(connection, len(self.pids), reason)
