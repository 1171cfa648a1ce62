"""The functions that Dask calls in workers; none of them runs user code.

A launch first calls `look` and `prepare` in each chosen worker, outside of Dask's tasks (`Client.run`).
`prepare` reserves a place for each rank of that worker.  Then one task a rank takes that place (`hold`),
starts the agent, and waits for its end.

Both steps are needed.  The task lets the scheduler know that a thread is in use, so that it neither sends
other tasks there nor takes the worker for idle, and ranks that wait for a thread show up as waiting tasks.
But Dask executes a task again if its worker has died, four times by default; such a task finds no place, and
starts nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import Any

from procession.remote import VERSION as CORE_VERSION
from procession.remote import read_boot_id
from procession.remote.relay import WorkerRelay
from procession_dask.clients import load
from procession_dask.places import Place, Ticket

VERSION: list[int] = [1, *CORE_VERSION]
"""The versions of these functions' arguments, of the messages between agents and hubs, and of Python."""

_PROBE_TIME = 2.0  # seconds for a connection to the hub

_places: dict[tuple[str, int], Place] = {}


async def look(
    version: Sequence[int], hub: Sequence[Any], network: Sequence[str]
) -> dict[str, Any]:
    """Return what the caller must know of this worker; change nothing."""
    answer = {"version": VERSION, "host": os.uname().nodename, "reaches": False}
    if version == VERSION:
        answer["reaches"] = await _reaches(hub, network)
    return answer


async def prepare(request: Mapping[str, Any], dask_worker: Any) -> str:
    """Reserve a place for each rank of this worker; return why that failed, or an empty string.

    It never raises: Dask would write its arguments to the worker's log, and the launch's secret with them.
    """
    address = dask_worker.contact_address
    try:
        payload = dask_worker.data.get(request["payloads"].get(address))
        for rank in request["ranks"][address]:
            ticket = Ticket(request["description"], rank, payload, request["changes"][address])
            payload = None  # the agents of a host share one copy
            relay = (
                WorkerRelay(request["contact_timeout"]) if address in request["relayed"] else None
            )
            _places[request["token"], rank] = Place(ticket, relay)
        asyncio.get_running_loop().call_later(request["expires"], _expire, request["token"])
    except Exception as error:
        return repr(error)
    return ""


def hold(token: str, rank: int) -> None:
    """Take a rank's place, start its agent, and wait for the agent's end; this is the function of a task.

    Raises:
        RuntimeError: there is no such place, or the agent failed.
    """
    place = _places.get((token, rank))
    if place is None:
        raise RuntimeError(
            f"there is no place for rank {rank} here; Dask has executed its task again"
        )
    worker = load().get_worker()
    task = worker.state.tasks.get(worker.get_current_task())

    def is_wanted() -> bool:
        if worker.status.name in ("closing", "closed", "failed"):
            return False
        # When a client is gone, the scheduler cancels its tasks.  That counts only for agents behind a
        # relay: one with a connection to its caller ends with that, and lives on if only the scheduler
        # lost the client.
        return place.relay is None or task is None or task.state != "cancelled"

    try:
        place.hold(is_wanted)
    finally:
        _places.pop((token, rank), None)


async def withdraw(token: str) -> None:
    """End all agents of a launch on this worker, and prevent others from starting."""
    places = [_places.pop(key) for key in list(_places) if key[0] == token]
    await asyncio.gather(*(asyncio.to_thread(place.give_up) for place in places))


async def pull(token: str, rank: int, seconds: float) -> Any:
    """Return the items that a rank's relay has for the caller; None if the place is gone."""
    place = _places.get((token, rank))
    return None if place is None else await place.call("pull", seconds)


async def push(token: str, rank: int, items: Sequence[Any]) -> None:
    """Pass items from the caller to a rank's relay."""
    place = _places.get((token, rank))
    if place is not None:
        await place.call("push", items)


def list_waiting(token: str) -> Sequence[int]:
    """Return the ranks of a launch whose places on this worker no task has taken."""
    return [
        rank for (whose, rank), place in _places.items() if whose == token and not place.is_taken
    ]


def identify_network() -> list[str]:
    """Return an id that is equal for processes that share a loopback interface."""
    return [read_boot_id(), os.readlink("/proc/self/ns/net")]


async def _reaches(hub: Sequence[Any], network: Sequence[str]) -> bool:
    """Return whether an agent on this worker can connect to its hub."""
    host, port = hub
    if ipaddress.ip_address(
        host
    ).is_loopback:  # on another host, another program listens at that port
        return identify_network() == list(network)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _PROBE_TIME)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _expire(token: str) -> None:
    """Give up the places of a launch that no task has taken in time: its caller is gone."""
    for key in [(token, rank) for rank in list_waiting(token)]:
        _places.pop(key).give_up()
