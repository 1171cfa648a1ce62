"""Starts the ranks of a launch by way of agents, which an engine places: all of them, or none.

First all agents report in; then each is told its orders, and the payload is sent, once to each host that
is seen to be one.  From then on the connections are the ranks' sentinels and channels, and nothing of this
runs on: no thread, no listener.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from procession._launch.spec import find_folder, write_fresh_orders
from procession._python.defer_signals import held_back
from procession._rank.identity import name_process
from procession.exceptions import StartError
from procession.protocol import Capabilities, Launch, Started
from procession.remote import link as frames
from procession.remote.agent_connection import Seat
from procession.remote.dispatch import Briefing
from procession.remote.hub import Hub, RefusalError
from procession.remote.options import Common, read_common
from procession.remote.placement import Agents, Placement, describe_agents
from procession.remote.process import RemoteChannel, RemoteProcess

if TYPE_CHECKING:
    from procession._rank.bootstrap import FreshOrders

log: logging.Logger = logging.getLogger("procession")

CAPABILITIES = Capabilities(remote=True, descendants=True, stacks=True, rendezvous=True)
"""What holds for ranks that agents hold."""

LOST_PATIENCE = 0.3
"""Seconds that an engine may wait for an agent that is lost."""

END_PATIENCE = 5.0
"""Seconds that agents have to end what their ranks have started, and their engine to notice."""


def start_agents(
    launch: Launch,
    place: Callable[[Agents], Placement],
    rank_variables: Sequence[str] = (),
    *,
    with_parent: bool = False,
) -> Started:
    """Start the ranks of a launch, each held by an agent that an engine places.

    Args:
        launch: what is to be started.
        place: asks the engine for the agents, and returns without waiting for them.
        rank_variables: where an agent finds its rank: the first of these variables that is set.  Where none
            is, agents are numbered as they come.
        with_parent: whether an agent is to end when the process that has started it does.

    Raises:
        TypeError, ValueError: fn, args or an option cannot be had by ranks elsewhere.
        StartError: not all agents came, or a rank could not be started; nothing is left of any.
        Exception: what pickling or ``place`` raised.
    """
    options = read_common(launch.options)
    if launch.together:
        raise ValueError(f"start method {launch.start_method!r} cannot have ranks leave together")
    orders = write_fresh_orders(launch, "spawn", forked=False)
    with _payload_of(launch, orders) as payload:
        hub = Hub(launch.nprocs, options.advertise, options.port, options.contact_timeout)
        try:
            agents = describe_agents(
                launch, hub, payload, rank_variables, options, with_parent=with_parent
            )
            return _start(
                launch, hub, partial(place, agents), Briefing.of(launch, orders, payload), options
            )
        finally:
            hub.close()


def _start(
    launch: Launch,
    hub: Hub,
    place: Callable[[], Placement],
    briefing: Briefing,
    options: Common,
) -> Started:
    seats: list[Seat] = []
    placement = None
    try:
        until = time.monotonic() + options.start_timeout
        placement = place()
        seats = _gather(launch, hub, placement, until, options)
        pids = briefing.give(seats, options.start_timeout)
        with held_back(until_owned=True):
            placement.begun()
            return _to_started(launch, placement, seats, pids)
    except BaseException:
        for seat in seats:
            seat.close()
        hub.close()
        if placement is not None:
            placement.end(0)
        raise


def _gather(
    launch: Launch, hub: Hub, placement: Placement, until: float, options: Common
) -> list[Seat]:
    def fail(reason: str) -> StartError:
        came = launch.nprocs - len(hub.missing)
        return StartError(launch.start_method, nprocs=launch.nprocs, came=came, reason=reason)

    def check() -> None:
        reason = placement.failure()
        if reason:
            raise fail(reason)

    try:
        seats = hub.gather(until, check)
    except RefusalError as error:
        raise fail(str(error)) from None
    if seats is None:
        said = placement.explain()
        reason = f"the others have not within {options.start_timeout:g} s (option start_timeout)"
        raise fail(f"{reason}: {said}" if said else reason)
    return seats


@contextmanager
def _payload_of(launch: Launch, orders: FreshOrders) -> Iterator[int]:
    """Provide the payload of a launch, complete but for the orders, as a file."""
    from procession._launch.payload import pickled_call

    with pickled_call(launch) as pickled:
        if pickled.fds:
            raise ValueError(
                f"args hold a queue, pipe, lock or the like, which ranks of start method "
                f"{launch.start_method!r} cannot have: they may be on other hosts"
            )
        pickled.describe_in(orders)
        orders["cwd"] = find_folder()
        pickled.file.write_orders(orders, apart=True)
        if not pickled.file.is_filled:
            pickled.file.fill()
        yield pickled.file.fd


def _to_started(
    launch: Launch, placement: Placement, seats: list[Seat], pids: list[int]
) -> Started:
    processes = [
        RemoteProcess(
            seat,
            pid,
            name=name_process(launch.start_method, launch.identity, seat.rank),
            daemon=launch.daemon,
        )
        for seat, pid in zip(seats, pids, strict=True)
    ]
    ending = _Ending(placement, seats, processes)
    return Started(
        processes,
        [process.sentinel for process in processes],
        [RemoteChannel(seat, process) for seat, process in zip(seats, processes, strict=True)],
        on_failure=ending.fail,
        on_finish=ending.finish,
    )


class _Ending(NamedTuple):
    """The end of a launch whose ranks have ended.  What an interrupt cuts short can be called again."""

    placement: Placement
    seats: list[Seat]
    processes: list[RemoteProcess]

    def fail(self) -> None:
        """Have the agents end what their ranks have started."""
        self._tell(failed=True)

    def finish(self) -> None:
        """Have the agents end, and their engine; wait for both."""
        self._tell(failed=False)  # where they know already, they do not read it
        lost = [process.lost is not None for process in self.processes]
        until = time.monotonic() + END_PATIENCE
        for seat, is_lost in zip(self.seats, lost, strict=True):
            if not is_lost and not _await_end(seat.control, until):
                log.warning("the agent of rank %s on %s does not end", seat.rank, seat.host)
            seat.close()
        self.placement.end(
            LOST_PATIENCE if any(lost) else END_PATIENCE
        )  # it may wait for who is lost

    def _tell(self, *, failed: bool) -> None:
        for seat in self.seats:
            seat.control.send(frames.FINISH, failed)


def _await_end(control: frames.Link, until: float) -> bool:
    """Wait until the other end has closed a connection; return whether it has."""
    poll = select.poll()
    while not control.closed:
        poll.register(control, select.POLLIN)
        if not poll.poll(max(until - time.monotonic(), 0) * 1000):
            return False
        try:
            frame = control.receive()
        except EOFError:
            break
        if frame is not None and frame.body >= 0:
            os.close(frame.body)
    return True
