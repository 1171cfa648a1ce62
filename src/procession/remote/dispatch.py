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
from procession.remote.agent_connection import Seat, number_locally

if TYPE_CHECKING:
    from procession._rank.bootstrap import FreshOrders

SHARED_FROM = 1 << 20
"""Bytes of a payload from which on it is sent once to a host, and not to each of its agents."""


class Briefing(NamedTuple):
    """What the ranks of a launch are told; ``payload`` is a file with the pickled fn and args."""

    launch: Launch
    orders: bytes
    payload: int

    @classmethod
    def of(cls, launch: Launch, orders: FreshOrders, payload: int) -> Briefing:
        """Return the briefing for orders, which are the same for all ranks but for their places."""
        return cls(launch, marshal.dumps(dict(orders)), payload)

    def give(self, seats: list[Seat], patience: float) -> list[int]:
        """Tell each agent its orders; return the process ids of the ranks that they have started.

        ``patience`` is how long (seconds) nothing may happen.

        Raises:
            StartError: an agent could not start its rank, or is gone.
        """
        shared = os.fstat(self.payload).st_size >= SHARED_FROM
        round_ = _Round(self, seats, shared=shared)
        try:
            round_.begin()
            while len(round_.pids) < len(seats):
                round_.advance(patience)
            round_.end()
        finally:
            round_.close()
        return [round_.pids[rank] for rank in range(len(seats))]

    def compose(
        self,
        seat: Seat,
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
            changes.update(compose_variables(seat.rank, nprocs, place, group, master))
        changes.update(self.launch.environments[seat.rank])
        return {
            "shares": shares,
            "orders": self.orders,
            "place": place,
            "prefix": sys.prefix,
            "flags": interpreter_flags(),
            "changes": changes,
            "keep_daemons": self.launch.keep_daemons,
            "forward": [int(number) for number in self.launch.signals.forward],
        }

    def fail(self, seat: Seat, came: int, reason: str) -> StartError:
        """Return the error for a rank that could not be started."""
        launch = self.launch
        told = f"rank {seat.rank} on {seat.host}: {reason}"
        return StartError(launch.start_method, nprocs=launch.nprocs, came=came, reason=told)


class _Round:
    """One briefing under way."""

    def __init__(self, briefing: Briefing, seats: list[Seat], *, shared: bool) -> None:
        self.briefing = briefing
        self.seats = seats
        self.shared = shared
        self.pids: dict[int, int] = {}
        self._hosts: dict[tuple[Any, ...], list[Seat]] = {}
        self._selector = fds.make_selector()

    def begin(self) -> None:
        """Send the orders, and the payload to those that are to have it from here."""
        first = self.seats[0].hello
        for seat in self.seats:
            self._hosts.setdefault(seat.place, []).append(seat)
        for neighbours in self._hosts.values():  # one that has the payload already shares it
            neighbours.sort(key=lambda seat: not seat.has_payload)
        hosts = list(dict.fromkeys(seat.host for seat in self.seats))
        for seat, place in zip(self.seats, number_locally(self.seats), strict=True):
            self._selector.register(seat.control, selectors.EVENT_READ, seat)
            shares = self.shared and self._hosts[seat.place][0] is seat
            seat.control.send(
                frames.ORDERS,
                self.briefing.compose(seat, place, hosts.index(seat.host), first, shares=shares),
            )
            if not seat.has_payload and (shares or not self.shared):
                seat.control.send(frames.PAYLOAD, None, self.briefing.payload)
            self._await_room(seat)

    def advance(self, patience: float) -> None:
        """Wait for the next events, and act on them."""
        events = self._selector.select(patience)
        if not events:
            late = next(seat for seat in self.seats if seat.rank not in self.pids)
            raise self._fail(late, f"for {patience:g} s it has not said that the rank was started")
        for key, ready in events:
            seat: Seat = key.data
            if ready & selectors.EVENT_WRITE:
                seat.control.flush()
            if ready & selectors.EVENT_READ:
                self._hear(seat)
            if seat.rank not in self.pids:
                self._await_room(seat)

    def end(self) -> None:
        """Have those that shared the payload let go of it."""
        for neighbours in self._hosts.values() if self.shared else ():
            neighbours[0].control.send(frames.SHARE)

    def close(self) -> None:
        """Free what is only needed meanwhile."""
        self._selector.close()

    def _hear(self, seat: Seat) -> None:
        try:
            frame = seat.control.receive()
        except EOFError as error:
            raise self._fail(seat, f"contact with its agent is gone: {error}") from None
        if frame is None:
            return
        if frame.kind == frames.STARTED and isinstance(frame.head, int):
            self.pids[seat.rank] = frame.head
            self._selector.unregister(seat.control)
        elif frame.kind == frames.SHARE:
            for other in self._hosts[seat.place][1:]:
                if not other.has_payload:
                    other.control.send(frames.SHARE, frame.head)
        elif frame.kind == frames.WANTED:  # it cannot read that of another on its host
            seat.control.send(frames.PAYLOAD, None, self.briefing.payload)
        else:
            raise self._fail(seat, str(frame.head))

    def _await_room(self, seat: Seat) -> None:
        """Wait for room as well, as long as something is to be sent."""
        wanted = selectors.EVENT_WRITE if seat.control.is_sending else 0
        self._selector.modify(seat.control, selectors.EVENT_READ | wanted, seat)

    def _fail(self, seat: Seat, reason: str) -> StartError:
        return self.briefing.fail(seat, len(self.pids), reason)
