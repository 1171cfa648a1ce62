"""What runs in workers, none of it the user's: Dask calls these functions there, and only there.

A launch first has `look` and `prepare` called in each chosen worker, outside of Dask's tasks (`Client.run`);
the latter keeps a place for each of its ranks.  Then a task a rank takes that place (`hold`), starts the
agent, and waits for it.  Why both: the task makes the scheduler know that a thread is in use, so that it
neither sends other tasks there nor takes the worker for idle, and what has to wait waits where everybody
looks.  But Dask executes a task again whose worker has died, four times by default; that finds no place, and
starts nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import Any

from procession.remote.agent_connection import VERSION as CORE_VERSION
from procession.remote.agent_connection import read_boot_id
from procession.remote.relay import WorkerRelay
from procession_dask.clients import load
from procession_dask.places import Place, Ticket

VERSION: list[int] = [1, *CORE_VERSION]
"""The version of what these functions are told, of what agents and hubs tell each other, and of Python."""

_PROBE_TIME = 2.0  # seconds for a connection to the hub

_places: dict[tuple[str, int], Place] = {}


async def look(
    version: Sequence[int], hub: Sequence[Any], network: Sequence[str]
) -> dict[str, Any]:
    """Return what the caller has to know of this worker; nothing stays."""
    told = {"version": VERSION, "host": os.uname().nodename, "reaches": False}
    if version == VERSION:
        told["reaches"] = await _reaches(hub, network)
    return told


async def prepare(told: Mapping[str, Any], dask_worker: Any) -> str:
    """Keep a place for each rank that this worker is to have; return why it cannot, if so.

    It never raises: Dask would write its arguments, and with them the launch's secret, to the worker's log.
    """
    address = dask_worker.contact_address
    try:
        payload = dask_worker.data.get(told["payloads"].get(address))
        for rank in told["ranks"][address]:
            ticket = Ticket(told["description"], rank, payload, told["changes"][address])
            payload = None  # one agent has it for all of its host
            relay = WorkerRelay(told["contact_timeout"]) if address in told["relayed"] else None
            _places[told["token"], rank] = Place(ticket, relay)
        asyncio.get_running_loop().call_later(told["expires"], _expire, told["token"])
    except Exception as error:
        return repr(error)
    return ""


def hold(token: str, rank: int) -> None:
    """Take a rank's place, and have its agent there; the task that does this ends with it.

    Raises:
        RuntimeError: there is no such place, or the agent has failed.
    """
    place = _places.get((token, rank))
    if place is None:
        raise RuntimeError(f"there is no place for rank {rank} here; Dask executes its task again")
    worker = load().get_worker()
    task = worker.state.tasks.get(worker.get_current_task())

    def is_wanted() -> bool:
        if worker.status.name in ("closing", "closed", "failed"):
            return False
        # the scheduler takes back what a client wanted that is gone; an agent that is connected to its
        # caller knows better, and lives on if only the scheduler has lost sight of the client
        return place.relay is None or task is None or task.state != "cancelled"

    try:
        place.hold(is_wanted)
    finally:
        _places.pop((token, rank), None)


async def withdraw(token: str) -> None:
    """End all agents of a launch that are here, and have no other start."""
    places = [_places.pop(key) for key in list(_places) if key[0] == token]
    await asyncio.gather(*(asyncio.to_thread(place.give_up) for place in places))


async def pull(token: str, rank: int, seconds: float) -> Any:
    """Return what a rank's relay has for the caller; None if that is gone, with its place."""
    place = _places.get((token, rank))
    return None if place is None else await place.call("pull", seconds)


async def push(token: str, rank: int, items: Sequence[Any]) -> None:
    """Hand over to a rank's relay what comes from the caller."""
    place = _places.get((token, rank))
    if place is not None:
        await place.call("push", items)


def list_waiting(token: str) -> Sequence[int]:
    """Return the ranks of a launch whose places here no task has taken."""
    return [
        rank for (whose, rank), place in _places.items() if whose == token and not place.is_taken
    ]


def identify_network() -> list[str]:
    """Return what is the same for processes that share their loopback interface."""
    return [read_boot_id(), os.readlink("/proc/self/ns/net")]


async def _reaches(hub: Sequence[Any], network: Sequence[str]) -> bool:
    """Return whether an agent here can connect to its hub."""
    host, port = hub
    if ipaddress.ip_address(host).is_loopback:  # whoever listens at that port here is another
        return identify_network() == list(network)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _PROBE_TIME)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _expire(token: str) -> None:
    """Forget the places of a launch that nobody has taken: its caller is gone."""
    for key in [(token, rank) for rank in list_waiting(token)]:
        _places.pop(key).give_up()
