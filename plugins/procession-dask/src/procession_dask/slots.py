"""Finds room for ranks: worker threads without a task, as far as the scheduler knows."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from procession import Launch, StartError
from procession_dask.clients import CALL_TIME, Connection

log: logging.Logger = logging.getLogger("procession")

Plan = Mapping[str, Sequence[int]]
"""The ranks of each worker, by its address."""

_PAUSE = 0.2  # seconds between looks at a cluster that has too little room
_QUIET = 3.0  # seconds of waiting after which a warning says why


@dataclass(frozen=True, slots=True)
class Slots:
    """The number of threads of each usable worker, and how many of them are free, by address."""

    threads: Mapping[str, int]
    free: Mapping[str, int]

    @property
    def count(self) -> int:
        """The number of ranks that fit."""
        return sum(self.free.values())

    def __str__(self) -> str:
        total = sum(self.threads.values())
        return (
            f"{total - self.count} of {total} worker threads are busy"
            if total
            else "there is no worker"
        )


def read_workers(launch: Launch) -> list[str] | None:
    """Return the option ``workers``; None means all workers.

    Raises:
        TypeError: it is not a list of addresses.
    """
    given = launch.options.get("workers")
    if given is None:
        return None
    if isinstance(given, str) or not all(isinstance(each, str) for each in given):
        raise TypeError(f"options['workers'] must be a list of workers' addresses, not {given!r}")
    return list(given)


def find_slots(
    connection: Connection, launch: Launch, workers: Sequence[str] | None, patience: float
) -> Plan:
    """Assign ranks to workers; wait up to ``patience`` seconds for enough room.

    Room may appear as workers join and tasks end.

    Raises:
        StartError: there is not enough room, or the scheduler does not answer.
    """
    begun, warned = time.monotonic(), False
    while True:
        slots = _look(connection, launch, workers)
        if slots.count >= launch.nprocs:
            return make_plan(slots.free, launch.nprocs)
        waited = time.monotonic() - begun
        if waited >= patience:
            raise _refuse(launch, slots, workers, patience)
        if waited >= _QUIET and not warned:
            warned = True
            log.warning("waiting for room for %s ranks: %s", launch.nprocs, slots)
        time.sleep(min(_PAUSE, patience))


def make_plan(free: Mapping[str, int], nprocs: int) -> Plan:
    """Return a plan that fills one worker after the other."""
    plan: dict[str, Sequence[int]] = {}
    given = 0
    for address in free:
        ranks = range(given, min(given + free[address], nprocs))
        if ranks:
            plan[address] = ranks
            given = ranks.stop
    return plan


def _look(connection: Connection, launch: Launch, workers: Sequence[str] | None) -> Slots:
    try:
        threads, processing = connection.ask(_count, connection.client, patience=CALL_TIME)
    except OSError as error:  # a TimeoutError is one
        reason = f"the scheduler does not answer: {error}"
        raise StartError(launch.start_method, nprocs=launch.nprocs, reason=reason) from None
    chosen = (
        sorted(threads) if workers is None else workers
    )  # sorted by host, with which addresses begin
    threads = {address: threads[address] for address in chosen if address in threads}
    free = {
        address: max(count - len(processing.get(address, ())), 0)
        for address, count in threads.items()
    }
    return Slots(threads, free)


async def _count(client: Any) -> tuple[Mapping[str, int], Mapping[str, Sequence[str]]]:
    """Return the number of threads of all running workers, and the tasks of each."""
    threads = await client.scheduler.ncores_running(workers=None)
    return threads, await client.scheduler.processing(workers=None)


def _refuse(
    launch: Launch, slots: Slots, workers: Sequence[str] | None, patience: float
) -> StartError:
    reason = f"{slots}, after {patience:g} s (option start_timeout)"
    missing = [address for address in workers or () if address not in slots.threads]
    if missing:
        reason += f"; the scheduler does not know {', '.join(missing)} (option workers)"
    return StartError(launch.start_method, nprocs=launch.nprocs, slots=slots.count, reason=reason)
