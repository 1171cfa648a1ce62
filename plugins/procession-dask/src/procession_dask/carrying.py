"""Carries what agents and their caller say through Dask's own connections, where there are no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from procession.remote.relay import CallerRelay, Item
from procession_dask import worker


class DaskCarrier:
    """Calls the relays of a launch's ranks in their workers, through the scheduler, which reaches them.

    Items do not go as events of Dask's (`log_event`): the scheduler would keep them all.
    """

    def __init__(
        self, client: Any, token: str, hub: tuple[str, int], contact_timeout: float
    ) -> None:
        self._client = client
        self._token = token
        self._addresses: dict[int, str] = {}
        self._relay = CallerRelay(hub, self, contact_timeout)

    def attach(self, rank: int, address: str) -> None:
        """Begin to carry for a rank of that worker."""
        self._addresses[rank] = address
        self._relay.attach(rank)

    def pull(self, agent: int, seconds: float) -> None:
        """Have the caller's relay told what the worker's has for it."""
        self._call(agent, worker.pull, seconds, self._relay.pulled)

    def push(self, agent: int, items: list[Item]) -> None:
        """Have the worker's relay told what the caller's has for it."""
        self._call(agent, worker.push, items, lambda agent, _: self._relay.pushed(agent))

    def close(self) -> None:
        """End all that is carried.  May be called again."""
        self._relay.close()

    def _call(
        self,
        rank: int,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        what: Any,
        then: Callable[[int, Any], None],
    ) -> None:
        async def call() -> None:
            address = self._addresses[rank]
            try:
                answers = await self._client.run(fn, self._token, rank, what, workers=[address])
            except Exception:  # the worker is gone, or the scheduler
                self._relay.lose(rank)
            else:
                then(rank, answers[address])

        asyncio.run_coroutine_threadsafe(call(), self._client.loop.asyncio_loop)
