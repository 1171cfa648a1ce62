"""Starts the ranks of a launch through agents, which an engine places: all ranks, or none.

First all agents connect.  Then each gets its spec and the payload; a large payload goes only once to each
host.  From then on the connections are the ranks' sentinels and channels: no thread and no listener remains.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from procession._launch.spec import find_folder, make_bootstrap_spec
from procession._python.clock import monotonic
from procession._python.defer_signals import defer_sigint
from procession._python.log import debug
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
"""The capabilities of every backend that starts agents."""

LOST_PATIENCE = 0.3
"""Seconds to give an engine that waits for a lost agent."""

END_PATIENCE = 5.0
"""Seconds for agents to end what their ranks started, and for the engine to notice."""


def start_agents(
    launch: Launch,
    place: Callable[[Agents], Placement],
    rank_variables: Sequence[str] = (),
    *,
    with_parent: bool = False,
) -> Started:
    """Start the ranks of a launch, each held by an agent that an engine places.

    Args:
        launch: the launch.
        place: asks the engine to start the agents, and returns without waiting for them.
        rank_variables: the first of these variables that is set in an agent's environment holds its rank.
            If none is set, agents get ranks in the order of their arrival.
        with_parent: whether an agent ends when the process that started it ends.

    Raises:
        TypeError, ValueError: fn, args or an option cannot be used by ranks on other hosts.
        StartError: not all agents arrived, or a rank could not be started; no agent is left.
        Exception: what pickling or ``place`` raises.
    """
    options = read_common(launch.options)
    if launch.exit_barrier:
        raise ValueError(f"start method {launch.start_method!r} has no exit barrier")
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
        until = monotonic() + options.start_timeout
        placement = place()
        debug("%s: placed %d agents", launch.name, launch.nprocs)
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
        explanation = placement.explain()
        reason = f"the others have not within {options.start_timeout:g} s (option start_timeout)"
        raise fail(f"{reason}: {explanation}" if explanation else reason)
    return connections


@contextmanager
def _payload_of(launch: Launch, spec: BootstrapSpec) -> Iterator[int]:
    """Provide the payload of a launch, without the spec, as the descriptor of a file."""
    from procession._launch.payload import pickled_call

    with pickled_call(launch) as pickled:
        if pickled.fds:
            raise ValueError(
                f"args hold a queue, pipe, lock or the like, which ranks of start method "
                f"{launch.start_method!r} cannot use: they may be on other hosts"
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
    """Ends the agents and the engine of a launch whose ranks have ended; all methods may be called again."""

    placement: Placement
    connections: list[AgentConnection]
    processes: list[RemoteProcess]

    def fail(self) -> None:
        """Make the agents end what their ranks started."""
        self._send_finish(failed=True)

    def finish(self) -> None:
        """Make the agents and their engine end, and wait for both."""
        self._send_finish(failed=False)  # after `fail` they do not read it any more
        lost = [process.lost is not None for process in self.processes]
        until = monotonic() + END_PATIENCE
        for connection, is_lost in zip(self.connections, lost, strict=True):
            if not is_lost and not _wait_until_closed(connection.control, until):
                log.warning(
                    "the agent of rank %s on %s has not ended", connection.rank, connection.host
                )
            connection.close()
        # the engine may wait for lost agents, in vain
        self.placement.end(LOST_PATIENCE if any(lost) else END_PATIENCE)

    def _send_finish(self, *, failed: bool) -> None:
        for connection in self.connections:
            connection.control.send(frames.FINISH, failed)


def _wait_until_closed(control: frames.Link, until: float) -> bool:
    """Wait until the other end has closed a connection; return whether it has."""
    poll = select.poll()
    while not control.closed:
        poll.register(control, select.POLLIN)
        if not poll.poll(max(until - monotonic(), 0) * 1000):
            return False
        try:
            frame = control.receive()
        except EOFError:
            break
        if frame is not None and frame.body >= 0:
            os.close(frame.body)
    return True
