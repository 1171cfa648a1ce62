"""The tasks of a launch, one a rank: each holds a thread of its worker, and waits for an agent."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from procession_dask.worker import hold

_PRIORITY = 1000  # before tasks that wait for the same threads: ranks have to be there together
_PAUSE = 0.005  # seconds between looks at what has become of them


class Call:
    """What unpickles as the result of a call, made by whoever unpickles it.

    As the bytes that a task's function, `pickle.loads`, is given, it means nothing to the scheduler, which
    unpickles tasks, and need not have this plugin.
    """

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._call = fn, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class Tasks:
    """What Dask knows of a launch."""

    def __init__(self) -> None:
        self._futures: list[tuple[str, Any]] = []  # with the worker of each, in the order of ranks

    def submit(self, client: Any, token: str, address: str, ranks: Sequence[int]) -> None:
        """Have the places of these ranks, which that worker keeps, taken by tasks there."""
        futures = client.map(
            pickle.loads,
            [pickle.dumps(Call(hold, token, rank)) for rank in ranks],
            key=[f"procession-{token}-{rank}" for rank in ranks],
            workers=[address],
            priority=_PRIORITY,
        )
        self._futures += [(address, future) for future in futures]

    def failure(self) -> str:
        """Return why one has ended; an empty string as long as none has."""
        for rank, (_, future) in enumerate(self._futures):
            if future.status == "error":
                return str(future.exception())
            if future.status != "pending":
                return f"the task of rank {rank}'s agent has ended ({future.status})"
        return ""

    async def wait(self, client: Any, workers: Collection[str], patience: float) -> bool:
        """Wait for those of these workers, as long as they are there; return whether they have ended."""
        until = time.monotonic() + patience
        while pending := {where for where, future in self._futures if future.status == "pending"}:
            if pending.isdisjoint(await list_present(client, workers)):
                break
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    def release(self) -> None:
        """Have Dask forget them, and not begin those that wait.  May be called again."""
        for _, future in self._futures:
            future.release()


async def list_present(client: Any, workers: Collection[str]) -> list[str]:
    """Return those of these workers that the scheduler has."""
    there = await client.scheduler.ncores(workers=None)
    return [address for address in workers if address in there]
