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

from procession._launch.spec import find_folder, make_bootstrap_spec
from procession._python.defer_signals import defer_sigint
from procession._rank.identity import name_process
from procession.exceptions import StartError
from procession.protocol import Capabilities, Launch, Started
from procession.remote import link as frames
from procession.remote.agent_connection import AgentConnection
from procession.remote.dispatch import Dispatch
from procession.remote.hub import Hub, RefusalError
from procession.remote.options import Common, read_common
from procession.remote.placement import Agents, Placement, describe_agents
from procession.remote.process import RemoteChannel, RemoteProcess

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec

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
    if launch.exit_barrier:
        raise ValueError(f"start method {launch.start_method!r} cannot have ranks leave together")
    spec = make_bootstrap_spec(launch, "spawn", forked=False)
    with _payload_of(launch, spec) as payload:
        hub = Hub(launch.nprocs, options.advertise, options.port, options.contact_timeout)
        try:
            agents = describe_agents(
                launch, hub, payload, rank_variables, options, with_parent=with_parent
            )
            return _start(
                launch, hub, partial(place, agents), Dispatch.of(launch, spec, payload), options
            )
        finally:
            hub.close()


def _start(
    launch: Launch,
    hub: Hub,
    place: Callable[[], Placement],
    dispatch: Dispatch,
    options: Common,
) -> Started:
    connections: list[AgentConnection] = []
    placement = None
    try:
        until = time.monotonic() + options.start_timeout
        placement = place()
        connections = _gather(launch, hub, placement, until, options)
        pids = dispatch.give(connections, options.start_timeout)
        with defer_sigint(until_owned=True):
            placement.begun()
            return _to_started(launch, placement, connections, pids)
    except BaseException:
        for connection in connections:
            connection.close()
        hub.close()
        if placement is not None:
            placement.end(0)
        raise


def _gather(
    launch: Launch, hub: Hub, placement: Placement, until: float, options: Common
) -> list[AgentConnection]:
    def fail(reason: str) -> StartError:
        came = launch.nprocs - len(hub.missing)
        return StartError(launch.start_method, nprocs=launch.nprocs, came=came, reason=reason)

    def check() -> None:
        reason = placement.failure()
        if reason:
            raise fail(reason)

    try:
        connections = hub.gather(until, check)
    except RefusalError as error:
        raise fail(str(error)) from None
    if connections is None:
        said = placement.explain()
        reason = f"the others have not within {options.start_timeout:g} s (option start_timeout)"
        raise fail(f"{reason}: {said}" if said else reason)
    return connections


@contextmanager
def _payload_of(launch: Launch, spec: BootstrapSpec) -> Iterator[int]:
    """Provide the payload of a launch, complete but for the orders, as a file."""
    from procession._launch.payload import pickled_call

    with pickled_call(launch) as pickled:
        if pickled.fds:
            raise ValueError(
                f"args hold a queue, pipe, lock or the like, which ranks of start method "
                f"{launch.start_method!r} cannot have: they may be on other hosts"
            )
        pickled.describe_in(spec)
        spec["cwd"] = find_folder()
        pickled.file.write_spec(spec, apart=True)
        if not pickled.file.is_filled:
            pickled.file.fill()
        yield pickled.file.fd


def _to_started(
    launch: Launch, placement: Placement, connections: list[AgentConnection], pids: list[int]
) -> Started:
    processes = [
        RemoteProcess(
            connection,
            pid,
            name=name_process(launch.start_method, launch.identity, connection.rank),
            daemon=launch.daemon,
        )
        for connection, pid in zip(connections, pids, strict=True)
    ]
    ending = _Ending(placement, connections, processes)
    return Started(
        processes,
        [process.sentinel for process in processes],
        [
            RemoteChannel(connection, process)
            for connection, process in zip(connections, processes, strict=True)
        ],
        on_failure=ending.fail,
        on_finish=ending.finish,
    )


class _Ending(NamedTuple):
    """The end of a launch whose ranks have ended.  What an interrupt cuts short can be called again."""

    placement: Placement
    connections: list[AgentConnection]
    processes: list[RemoteProcess]

    def fail(self) -> None:
        """Have the agents end what their ranks have started."""
        self._tell(failed=True)

    def finish(self) -> None:
        """Have the agents end, and their engine; wait for both."""
        self._tell(failed=False)  # where they know already, they do not read it
        lost = [process.lost is not None for process in self.processes]
        until = time.monotonic() + END_PATIENCE
        for connection, is_lost in zip(self.connections, lost, strict=True):
            if not is_lost and not _await_end(connection.control, until):
                log.warning(
                    "the agent of rank %s on %s does not end", connection.rank, connection.host
                )
            connection.close()
        self.placement.end(
            LOST_PATIENCE if any(lost) else END_PATIENCE
        )  # it may wait for who is lost

    def _tell(self, *, failed: bool) -> None:
        for connection in self.connections:
            connection.control.send(frames.FINISH, failed)


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
