"""The tasks of a launch, one a rank: each occupies a thread of its worker, and waits for an agent."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from procession_dask.worker import hold

_PRIORITY = (
    1000  # ahead of other tasks that wait for the same threads: all ranks must run at the same time
)
_PAUSE = 0.005  # seconds between checks of their states


class Call:
    """An object that is unpickled as the result of a call, made by the process that unpickles it.

    A task's function is `pickle.loads`, and its argument the pickled `Call`.  The scheduler unpickles tasks,
    but not this argument, so that it does not need this plugin.
    """

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._call = fn, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class Tasks:
    """The tasks of a launch."""

    def __init__(self) -> None:
        self._futures: list[
            tuple[str, Any]
        ] = []  # the worker and the future of each, in the order of ranks

    def submit(self, client: Any, token: str, address: str, ranks: Sequence[int]) -> None:
        """Submit tasks to a worker, which take the places of these ranks there."""
        futures = client.map(
            pickle.loads,
            [pickle.dumps(Call(hold, token, rank)) for rank in ranks],
            key=[f"procession-{token}-{rank}" for rank in ranks],
            workers=[address],
            priority=_PRIORITY,
        )
        self._futures += [(address, future) for future in futures]

    def failure(self) -> str:
        """Return why a task has ended; an empty string if none has."""
        for rank, (_, future) in enumerate(self._futures):
            if future.status == "error":
                return str(future.exception())
            if future.status != "pending":
                return f"the task of rank {rank}'s agent has ended ({future.status})"
        return ""

    async def wait(self, client: Any, workers: Collection[str], patience: float) -> bool:
        """Wait for the tasks on workers that are still there; return whether all have ended in time."""
        until = time.monotonic() + patience
        while pending := {where for where, future in self._futures if future.status == "pending"}:
            if pending.isdisjoint(await list_present(client, workers)):
                break
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    def release(self) -> None:
        """Release the tasks: Dask forgets them and does not begin those that wait.  May be called again."""
        for _, future in self._futures:
            future.release()


async def list_present(client: Any, workers: Collection[str]) -> list[str]:
    """Return those of these workers that the scheduler knows."""
    there = await client.scheduler.ncores(workers=None)
    return [address for address in workers if address in there]
