"""Carries the messages between agents and their caller over Dask's own connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from procession.remote.relay import CallerRelay, Item
from procession_dask import worker


class DaskCarrier:
    """Calls the relays of a launch's ranks in their workers, through the scheduler.

    It does not use Dask's events (`log_event`), since the scheduler would keep all items.
    """

    def __init__(
        self, client: Any, token: str, hub: tuple[str, int], contact_timeout: float
    ) -> None:
        self._client = client
        self._token = token
        self._addresses: dict[int, str] = {}
        self._relay = CallerRelay(hub, self, contact_timeout)

    def attach(self, rank: int, address: str) -> None:
        """Start to carry messages for a rank on that worker."""
        self._addresses[rank] = address
        self._relay.attach(rank)

    def pull(self, agent: int, seconds: float) -> None:
        """Fetch items from the worker's relay for the caller's."""
        self._call(agent, worker.pull, seconds, self._relay.pulled)

    def push(self, agent: int, items: list[Item]) -> None:
        """Send items from the caller's relay to the worker's."""
        self._call(agent, worker.push, items, lambda agent, _: self._relay.pushed(agent))

    def close(self) -> None:
        """Close the caller's relay.  May be called again."""
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
            except Exception:  # the worker or the scheduler is gone
                self._relay.lose(rank)
            else:
                then(rank, answers[address])

        asyncio.run_coroutine_threadsafe(call(), self._client.loop.asyncio_loop)
