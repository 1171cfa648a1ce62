"""Places a launch's agents by Dask; this part runs in the caller."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from procession import Launch, StartError
from procession.remote import Agents, read_common
from procession_dask import worker
from procession_dask.answers import find_problem
from procession_dask.carrying import DaskCarrier
from procession_dask.clients import CALL_TIME, Connection, addressing
from procession_dask.payloads import choose_receivers, scattered
from procession_dask.slots import Plan
from procession_dask.tasks import Tasks, list_present

log: logging.Logger = logging.getLogger("procession")

_LOOK_TIME = 10.0  # seconds for all workers to test whether they can connect
_GRACE = 1.0  # seconds for the end of tasks whose agents have ended, as far as the caller knows
_PAUSE = 1.0  # seconds between checks of the workers, while ranks start
_PING = 2.0  # seconds for a worker to answer
_STOP_TIME = 6.0  # seconds for a worker to end agents that have not ended by themselves
_END_TIME = 2 * _GRACE + _PING + _STOP_TIME + CALL_TIME


class DaskPlacement:
    """The agents of a launch on the workers of a plan."""

    def __init__(self, connection: Connection, plan: Plan, launch: Launch, agents: Agents) -> None:
        self._connection = connection
        self._client = connection.client
        self._plan = plan
        self._launch = launch
        self._agents = agents
        self._common = read_common(launch.options)
        self._token = uuid.uuid4().hex
        self._tasks = Tasks()
        self._carrier: DaskCarrier | None = None
        self._next_look = 0.0
        self._gone = ""
        self._begun = False
        self._over = False

    def begin(self, transport: str) -> DaskPlacement:
        """Reserve places for the ranks, submit the tasks that take them, and return self.

        Raises:
            StartError: a worker cannot start agents.
        """
        try:
            relayed, receivers = self._ask(self._look, transport, patience=_LOOK_TIME)
            self._ask(self._prepare, relayed, receivers, patience=None)
        except BaseException:
            self.end(0)
            raise
        return self

    def failure(self) -> str:
        """Return why an agent will not arrive: its task has ended, or its worker is gone."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _PAUSE
            asyncio.run_coroutine_threadsafe(self._look_around(), self._client.loop.asyncio_loop)
        return self._tasks.failure() or self._gone

    def explain(self) -> str:
        """Return which ranks wait for a thread of their worker."""
        try:
            waiting = self._connection.ask(self._list_waiting, patience=CALL_TIME)
        except OSError as error:
            return f"the scheduler does not answer: {error}"
        found = [
            f"rank {rank} waits for a thread of {address}"
            for address, ranks in waiting.items()
            for rank in ranks
        ]
        gone = [f"{address} is gone" for address in self._plan if address not in waiting]
        return "; ".join([*found, *gone])

    def begun(self) -> None:
        """Note that all agents have arrived; they end by themselves from now on."""
        self._begun = True

    def end(self, patience: float) -> None:
        """Wait for the tasks, end those that remain, and release them.

        All agents have ended by now, except those that cannot be reached.
        """
        if self._connection.is_open and not self._over:
            try:
                self._connection.ask(self._end, patience, patience=_END_TIME)
            except OSError as error:
                log.warning("Dask does not answer; tasks of a launch may remain there: %s", error)
        if self._carrier is not None:
            self._carrier.close()
        self._connection.close()

    def _ask(self, call: Callable[..., Any], *args: Any, patience: float | None) -> Any:
        try:
            return self._connection.ask(call, *args, patience=patience)
        except OSError as error:
            raise self._fail(f"Dask does not answer: {error}") from None

    async def _look(self, transport: str) -> tuple[list[str], list[str]]:
        """Return the workers whose agents cannot connect, and those of them that get the payload by Dask."""
        answers = await self._client.run(
            worker.look,
            worker.VERSION,
            self._hub,
            worker.identify_network(),
            workers=list(self._plan),
            on_error="return",
        )
        problem = find_problem(self._plan, answers, transport)
        if problem:
            raise self._fail(problem)
        relayed = [
            address
            for address in self._plan
            if transport == "dask" or not answers[address]["reaches"]
        ]
        return relayed, choose_receivers(relayed, answers)

    async def _prepare(self, relayed: list[str], receivers: list[str]) -> None:
        async with scattered(self._client, self._agents.payload, receivers) as keys:
            request = self._compose(relayed, keys)
            prepared = self._client.run(worker.prepare, request, workers=list(self._plan))
            problems = await asyncio.wait_for(prepared, _LOOK_TIME)
        for address, problem in problems.items():
            if problem:
                raise self._fail(f"worker {address}: {problem}")
        for address, ranks in self._plan.items():
            if address in relayed:
                self._relay(address, ranks)
            self._tasks.submit(self._client, self._token, address, ranks)

    def _compose(self, relayed: list[str], payloads: Mapping[str, str]) -> dict[str, Any]:
        """Return the argument of `worker.prepare`."""
        return {
            "token": self._token,
            "ranks": {address: list(ranks) for address, ranks in self._plan.items()},
            "relayed": relayed,
            "payloads": payloads,
            "description": self._agents.description,
            "changes": {address: find_own_address(address) for address in self._plan},
            "contact_timeout": self._common.contact_timeout,
            "expires": self._common.start_timeout + CALL_TIME,
        }

    def _relay(self, address: str, ranks: Sequence[int]) -> None:
        """Carry the messages of a worker's agents."""
        if self._carrier is None:
            self._carrier = DaskCarrier(
                self._client, self._token, self._hub, self._common.contact_timeout
            )
        for rank in ranks:
            self._carrier.attach(rank, address)

    @property
    def _hub(self) -> tuple[str, int]:
        host, port = self._agents.hub
        return host, port

    async def _list_waiting(self) -> Mapping[str, Sequence[int]]:
        there = await list_present(self._client, self._plan)
        waiting: Mapping[str, Sequence[int]] = await self._client.run(
            worker.list_waiting, self._token, workers=there, on_error="ignore"
        )
        return waiting

    async def _look_around(self) -> None:
        there = await list_present(self._client, self._plan)
        self._gone = "; ".join(f"worker {each} is gone" for each in self._plan if each not in there)

    async def _end(self, patience: float) -> None:
        wait = partial(self._tasks.wait, self._client)
        if not self._begun or not await wait(self._plan, min(patience, _GRACE)):
            there = await list_present(self._client, self._plan)
            answering = await asyncio.gather(*map(self._withdraw, there))
            await wait([address for address in answering if address], _GRACE)
        self._tasks.release()
        self._over = True

    async def _withdraw(self, address: str) -> str:
        """Make a worker end its agents of the launch; return its address if it answers.

        If it does not answer, its agents end by themselves.
        """
        try:
            for call, patience in ((worker.list_waiting, _PING), (worker.withdraw, _STOP_TIME)):
                asked = self._client.run(call, self._token, workers=[address])
                await asyncio.wait_for(asked, patience)
        except Exception as error:
            log.warning("Dask's worker %s does not answer: %r", address, error)
            return ""
        return address

    def _fail(self, reason: str) -> StartError:
        launch = self._launch
        return StartError(launch.start_method, nprocs=launch.nprocs, reason=reason)


def find_own_address(address: str) -> dict[str, str]:
    """Return the address of a worker's ranks for other hosts: that at which Dask reaches the worker."""
    if address.startswith("inproc:"):  # the worker runs in this process
        return {}
    return {"address": addressing().get_address_host(address)}
