"""Both ends of a relay, which carries an agent's connections if its host cannot reach the hub.

A `WorkerRelay` takes the place of the hub next to the agent, a `CallerRelay` the place of the agents next to
the hub.  Between the two, an engine carries lists of `Item` in its calls.  The relays do not interpret the
data.  They keep the order of data on each connection, and data never overtakes data that came before it on
another connection of the same agent: the exit code of a rank must not arrive before its report.

In a worker:
    relay = WorkerRelay(contact_timeout)
    agent = host_agent(description, rank, hub=relay.address, address=...)
    (meanwhile the engine calls relay.pull and relay.push)
    agent.wait()
    relay.finish()
In the caller:
    relay = CallerRelay(hub_address, carrier, contact_timeout)
    relay.attach(rank)  (for each, once its worker's relay is there)
    relay.close()
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from procession._linux import fds
from procession._python.clock import monotonic
from procession.remote.link import keep_alive
from procession.remote.relay.tunnel import LIMIT, Item, Pump, Tunnel, connect

log: logging.Logger = logging.getLogger("procession")

PULL_TIME = 2.0
"""The most seconds that a pull waits for data."""

CONNECTIONS = 16
"""The most connections of a worker's relay at a time; an agent has two."""

_LOOK = 0.5  # seconds between looks at the clock


class Carrier(Protocol):
    """What an engine does for a `CallerRelay`.  Neither method blocks; any thread may call both."""

    def pull(self, agent: int, seconds: float) -> None:
        """Call `WorkerRelay.pull` of this agent, then `CallerRelay.pulled` with the result."""
        ...

    def push(self, agent: int, items: list[Item]) -> None:
        """Call `WorkerRelay.push` of this agent, then `CallerRelay.pushed`."""
        ...


class WorkerRelay(Pump[Tunnel]):
    """The relay in a worker of an engine, to which an agent connects; any thread may call its methods.

    ``address`` is the address for the agent.  If the caller makes no call for ``contact_timeout`` seconds,
    the relay ends the connections, and the agent then ends its rank and exits.
    """

    def __init__(self, contact_timeout: float = 10.0) -> None:
        super().__init__()
        self._contact_timeout = contact_timeout
        self._tunnel = Tunnel(_refuse)
        self._tunnels = [self._tunnel]
        self._next = 0
        self._heard = monotonic()
        self._calls = 0  # the number of calls under way
        with fds.LOCK:
            self._listener = fds.lift_socket(socket.create_server(("127.0.0.1", 0)))
            self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()

    def pull(self, seconds: float = PULL_TIME) -> list[Item] | None:
        """Return data for the caller, after at most so many seconds; None if no more will come."""
        with self._called():
            self._changed.wait_for(lambda: self._closing or self._tunnel.came, seconds)
            return None if self._closing else self._tunnel.take()

    def push(self, items: Sequence[Item]) -> None:
        """Take data from the caller; return once there is room for more."""
        with self._called():
            self._tunnel.give(items)
            self._touch(self._tunnel)
            self._changed.wait_for(lambda: self._closing or self._tunnel.waiting_size < LIMIT)

    def finish(self, seconds: float | None = None) -> None:
        """Wait until the caller has fetched all data of an agent that has ended, or is gone; then close."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._has_all(), seconds)
        self.close()

    def close_in_child(self) -> None:
        """Close the descriptors that a new fork of this process does not need."""
        super().close_in_child()
        self._listener.close()

    @contextmanager
    def _called(self) -> Iterator[None]:
        """Record that the caller is alive."""
        with self._changed:
            self._calls += 1
            try:
                yield
            finally:
                self._calls -= 1
                self._heard = monotonic()
                self._touch(self._tunnel)

    def _has_all(self) -> bool:
        """Whether the caller has fetched everything that will ever come."""
        streams = self._tunnel.streams.values()
        return not self._tunnel.came and all(stream.read_end for stream in streams)

    def _notice(self, what: object) -> None:
        super()._notice(what)
        if what is not self._listener:
            return
        try:
            with fds.LOCK:
                sock = fds.lift_socket(self._listener.accept()[0])
                if len(self._tunnel.streams) >= CONNECTIONS:
                    sock.close()
                    return
                self._tunnel.open(self._next, sock)
        except OSError:  # the connection is closed already
            return
        keep_alive(sock, self._contact_timeout)  # detects an agent that is stopped, too
        self._tunnel.came.append((self._next, None))
        self._next += 1
        self._touched.add(self._tunnel)

    def _turn(self, now: float) -> tuple[float, list[Callable[[], None]]]:
        left = self._heard + self._contact_timeout - now
        if left < 0 and not self._calls:
            self._closing = True
        return min(max(left, 0.01), _LOOK), []

    def _free(self) -> None:
        super()._free()
        self._listener.close()


class _Passage(Tunnel):
    """The tunnel of one agent, at the caller's end."""

    def __init__(self, agent: int, hub: tuple[str, int]) -> None:
        super().__init__(partial(connect, hub))
        self.agent = agent
        self.heard: float = monotonic()
        self.is_pulling = False
        self.is_pushing = False
        self.is_over = False
        self.is_ending = False


class CallerRelay(Pump[_Passage]):
    """The relay in the caller, which connects to the hub in place of the agents; the engine carries the data.

    An attached agent is lost if its engine says so, or if no call completes for ``contact_timeout`` seconds.
    Its connections then end here, once all received data is delivered.
    """

    def __init__(
        self, hub: tuple[str, int], carrier: Carrier, contact_timeout: float = 10.0
    ) -> None:
        super().__init__()
        self._hub = hub
        self._carrier = carrier
        self._contact_timeout = contact_timeout
        self._beat = min(contact_timeout / 4, PULL_TIME)
        self._calls: list[Callable[[], None]] = []
        self._looked = 0.0
        self._passages: dict[int, _Passage] = {}
        self._thread.start()

    def attach(self, agent: int) -> None:
        """Begin to carry for this agent, whose `WorkerRelay` exists now."""
        with self._changed:
            passage = self._passages[agent] = _Passage(agent, self._hub)
            self._tunnels.append(passage)
            self._touch(passage)

    def pulled(self, agent: int, items: Sequence[Item] | None) -> None:
        """Take the result of a pull; None means that no more will come."""
        with self._changed:
            passage = self._passages[agent]
            passage.is_pulling = False
            passage.heard = monotonic()
            if not passage.is_over:
                passage.give(items or ())
                passage.is_over = items is None
            self._touch(passage)

    def pushed(self, agent: int) -> None:
        """Record that a push has completed."""
        with self._changed:
            passage = self._passages[agent]
            passage.is_pushing = False
            passage.heard = monotonic()
            self._touch(passage)

    def lose(self, agent: int) -> None:
        """Record that the engine can no longer reach this agent; ignored if it is not attached."""
        with self._changed:
            if agent in self._passages:
                self._passages[agent].is_over = True
                self._touch(self._passages[agent])

    def _advance(self, tunnel: _Passage) -> None:
        if tunnel.is_over:
            tunnel.take()  # drop it: the agent is lost
            if not tunnel.is_ending:
                tunnel.is_ending = True
                tunnel.end()
                self._touched.add(tunnel)
            return
        if not tunnel.is_pulling and tunnel.waiting_size < LIMIT:
            tunnel.is_pulling = True
            self._calls.append(partial(self._carry, tunnel.agent, self._carrier.pull, self._beat))
        if tunnel.came and not tunnel.is_pushing:
            self._push(tunnel)

    def _push(self, passage: _Passage) -> None:
        passage.is_pushing = True
        self._calls.append(partial(self._carry, passage.agent, self._carrier.push, passage.take()))

    def _carry(self, agent: int, how: Callable[[int, Any], None], what: Any) -> None:
        try:
            how(agent, what)
        except Exception as error:  # the engine is gone
            log.warning("nothing can be carried for agent %s: %s", agent, error)
            self.lose(agent)

    def _turn(self, now: float) -> tuple[float, list[Callable[[], None]]]:
        if now >= self._looked + _LOOK:
            self._looked = now
            for passage in self._tunnels:
                self._check(passage, now)
        calls, self._calls = self._calls, []
        return _LOOK, calls

    def _check(self, passage: _Passage, now: float) -> None:
        """Check whether an agent is lost, and show it that the caller is alive."""
        if passage.is_over:
            return
        if now > passage.heard + self._contact_timeout:
            log.warning(
                "nothing was carried for agent %s for %g s", passage.agent, self._contact_timeout
            )
            passage.is_over = True
            self._touched.add(passage)
        elif not passage.is_pulling and not passage.is_pushing and now > passage.heard + self._beat:
            self._push(passage)


def _refuse() -> Any:
    raise ConnectionRefusedError
