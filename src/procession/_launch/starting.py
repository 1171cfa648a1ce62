"""Functions for backends that start ranks one by one; if a start fails, the ranks already started end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from procession._python.defer_signals import defer_sigint
from procession._supervise.channel import SocketChannel
from procession.exceptions import note_on
from procession.protocol import ErrorChannel, Launch, Process, Sentinel, Started

if TYPE_CHECKING:
    from procession._launch.payload_file import PayloadFile

Handles = tuple[Process, Sentinel, ErrorChannel]

_STOP_WAIT = 3.0  # seconds to wait for the end of a killed process


def start_each(launch: Launch, start_one: Callable[[int], Handles]) -> Started:
    """Call ``start_one(rank)`` for each rank in order, and return all handles.

    Raises:
        BaseException: what ``start_one`` raised, with a note that names the rank.  The ranks started before
            have been killed and reaped.
    """
    started: list[Handles] = []
    rank = 0
    try:
        for rank in range(launch.nprocs):
            with defer_sigint(until_owned=True) as let_interrupts_through:
                started.append(start_one(rank))
                let_interrupts_through()
        return _combine(started)
    except BaseException as error:
        note_start(error, rank, launch.nprocs)
        abort_start(_combine(started))
        raise


def note_start(error: BaseException, rank: int, nprocs: int) -> None:
    """Add a note to an error that says which rank could not be started."""
    note_on(error, f"while starting rank {rank} of {nprocs}; none is left running")


def begin(channel: SocketChannel) -> bool:
    """Let a rank begin, now that this process holds a pidfd for it; return whether it has not ended.

    The rank waits until then.  Where SIGCHLD is ignored, or other code reaps every child, the exit code of a
    rank that ended earlier would be lost.
    """
    try:
        channel.begin()
    except ConnectionError:  # the rank has ended: its exit code says more
        return False
    return True


def hand_over(payload: PayloadFile, started: Started) -> Started:
    """Fill the payload of ranks that are starting, and let them continue; end them if that fails."""
    if not payload.is_filled:
        try:
            payload.fill()
            for channel in started.error_channels:
                if isinstance(channel, SocketChannel):
                    begin(channel)
        except BaseException as error:
            note_on(error, "while copying the buffers in args into memory; no rank is left running")
            abort_start(started)
            raise
    return started


def _combine(started: list[Handles]) -> Started:
    processes, sentinels, channels = zip(*started, strict=True) if started else ((), (), ())
    return Started(processes, sentinels, channels)


def abort_start(started: Started) -> None:
    """Kill and reap all processes, and free their resources."""
    from procession._supervise.rank_state import release_process

    for process in started.processes:
        process.kill()
    for process, channel in zip(started.processes, started.error_channels, strict=True):
        process.join(_STOP_WAIT)
        if not process.is_alive():
            release_process(process)
        channel.close()
    for call in (started.on_failure, started.on_finish):
        if call is not None:
            call()
