"""The agents of a launch on a Ray cluster: a task runs each, or an actor if Ray carries its messages."""

from __future__ import annotations

import importlib
import logging
import mmap
import pickle
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from procession.remote import Agents
from procession.remote.relay import CallerRelay, Item
from procession_ray.connection import ray
from procession_ray.keeper import UNREACHABLE, Keeper, keep
from procession_ray.options import Options
from procession_ray.reserving import Reservation

log: logging.Logger = logging.getLogger("procession")

_END_TIME = 1.0  # seconds for workers to notice that their agents ended
_STOP_TIME = 2.0  # seconds for workers to end agents
_THREADS = 4  # of an actor: one in `keep`, one in `pull`, one in `push`, one for `stop`


class Placed:
    """A `procession.remote.Placement` in a Ray placement group, and the carrier of its relay."""

    def __init__(self, agents: Agents, options: Options, until: float) -> None:
        self._agents = agents
        self._options = options
        self._until = until
        self._reservation = Reservation(agents.nprocs, options)
        self._places: list[tuple[str, int]] = []
        self._contact_timeout: float = agents.contact_timeout
        self._hub: tuple[str, int] = agents.hub
        self._relay: CallerRelay | None = None
        self._payload: list[Any] = []
        self._kept: dict[int, Any] = {}  # by rank, the reference of the call that runs its agent
        self._actors: dict[int, Any] = {}
        self._begun: set[int] = set()  # the ranks whose actors run an agent
        self._unreachable: deque[int] = deque()  # the ranks whose workers cannot reach the hub
        self._reason = ""
        self._ended = False

    def begin(self) -> None:
        """Reserve resources, and start the agents by Ray.

        Raises:
            StartError: there are too few resources, or not in time.
        """
        self._reservation.make(self._until)
        self._places = self._reservation.list_places()
        if self._agents.shares_payload:
            self._payload = _store(self._agents.payload)
        for rank in range(self._agents.nprocs):
            if self._options.transport == "ray":
                self._begin_actor(rank)
            else:
                self._begin_task(rank)

    def failure(self) -> str:
        """Return why no more agents will arrive; start actors for the ranks that cannot reach the hub."""
        while self._unreachable:
            self._begin_actor(self._unreachable.popleft())
        if not self._reason and time.monotonic() > self._until:
            return f"not all arrived within start_timeout; {self.explain()}"
        return self._reason

    def explain(self) -> str:
        """Return what is known of the agents that have not arrived."""
        nodes = len({node for node, _ in self._places})
        return (
            f"Ray has reserved room for all, on {nodes} nodes, but its workers have not all started their "
            "agents; see their logs"
        )

    def begun(self) -> None:
        """Release the payload in Ray's object store."""
        self._payload = []

    def end(self, patience: float) -> None:
        """End the tasks and actors, and release the reserved resources."""
        if self._ended:
            return
        try:
            if patience <= 0 or not self._wait(min(patience, _END_TIME)):
                self._stop_all()
            for actor in self._actors.values():
                ray().kill(actor)
            self._reservation.remove()
        except Exception as error:  # Ray is gone, or this process is disconnected from it
            log.warning("cannot end the tasks of a launch at Ray: %s", error)
        if self._relay is not None:
            self._relay.close()
        self._kept, self._actors, self._payload = {}, {}, []
        self._ended = True

    def pull(self, agent: int, seconds: float) -> None:
        """Start a call of the worker's `pull` for the relay."""
        call = self._actors[agent].pull.remote(seconds)
        self._when_done(call, agent, lambda items: self._get_relay().pulled(agent, items))

    def push(self, agent: int, items: list[Item]) -> None:
        """Start a call of the worker's `push` for the relay."""
        call = self._actors[agent].push.remote(items)
        self._when_done(call, agent, lambda _: self._get_relay().pushed(agent))

    def _begin_task(self, rank: int) -> None:
        task = (
            ray()
            .remote(keep)
            .options(**self._choose(rank), name=f"procession rank {rank}", max_retries=0)
        )
        probe = self._options.transport == "auto"
        kept = task.remote(self._agents.description, rank, self._share_of(rank), probe=probe)
        self._kept[rank] = kept
        self._when_done(kept, rank, partial(self._note_end, rank))

    def _begin_actor(self, rank: int) -> None:
        self._get_relay()
        actor = (
            ray()
            .remote(Keeper)
            .options(
                **self._choose(rank), max_restarts=0, max_task_retries=0, max_concurrency=_THREADS
            )
            .remote(self._contact_timeout)
        )
        self._actors[rank] = actor
        begun = actor.begin.remote(self._agents.description, rank, self._share_of(rank))
        self._when_done(begun, rank, lambda _: self._attach(rank))
        kept = actor.keep.remote()  # it waits for the end of `begin`
        self._kept[rank] = kept
        self._when_done(kept, rank, partial(self._note_end, rank))

    def _attach(self, rank: int) -> None:
        self._begun.add(rank)
        self._get_relay().attach(rank)

    def _choose(self, rank: int) -> dict[str, Any]:
        """Return the Ray options of a rank's task or actor."""
        options = self._options
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        given = {
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "resources": dict(options.resources),
            "scheduling_strategy": strategies.PlacementGroupSchedulingStrategy(
                placement_group=self._reservation.group,
                placement_group_bundle_index=self._places[rank][1],
            ),
        }
        if options.runtime_env is not None:
            given["runtime_env"] = dict(options.runtime_env)
        return given

    def _share_of(self, rank: int) -> list[Any]:
        """Return the reference of the payload for the first rank of a node; an empty list for others."""
        node = self._places[rank][0]  # ranks of one node are consecutive
        is_first = rank == 0 or node != self._places[rank - 1][0]
        return self._payload if is_first else []

    def _get_relay(self) -> CallerRelay:
        if self._relay is None:
            self._relay = CallerRelay(self._hub, self, self._contact_timeout)
        return self._relay

    def _when_done(self, reference: Any, rank: int, then: Callable[[Any], object]) -> None:
        """Call ``then`` with the result of a call; if the call fails, note that the rank is lost."""

        def call(done: Any) -> None:  # runs on a thread of Ray
            try:
                result = done.result()
            except BaseException as error:
                self._note_failure(rank, f"{type(error).__name__}: {error}")
            else:
                then(result)

        reference.future().add_done_callback(call)

    def _note_end(self, rank: int, said: str) -> None:
        """Note that a worker's agent has ended, or cannot start there."""
        if said == UNREACHABLE:
            self._unreachable.append(rank)
        elif said:
            host, port = self._hub
            hint = f"Ray's log of its worker gives the reason; can it reach {host}, port {port}?"
            self._note_failure(rank, f"{said}; {hint} See the options advertise and transport")

    def _note_failure(self, rank: int, reason: str) -> None:
        self._reason = self._reason or f"rank {rank}: {reason}"
        if self._relay is not None:
            self._relay.lose(rank)

    def _wait(self, patience: float) -> bool:
        """Wait until all agents have ended; return whether they have."""
        awaited = self._begun | (self._kept.keys() - self._actors.keys())
        kept = [self._kept[rank] for rank in awaited]
        return not kept or not ray().wait(kept, num_returns=len(kept), timeout=patience)[1]

    def _stop_all(self) -> None:
        for rank, kept in self._kept.items():
            if rank in self._begun:
                self._actors[rank].stop.remote()
            elif rank not in self._actors:
                ray().cancel(kept)
        self._wait(_STOP_TIME)


def _store(fd: int) -> list[Any]:
    """Return the reference of a file's content in Ray's object store; none if Ray cannot store it."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
        buffer = pickle.PickleBuffer(content)
        try:
            return [ray().put(buffer)]
        except Exception as error:
            log.warning(
                "Ray cannot store the payload; the agents get it from the caller instead: %s", error
            )
            return []
        finally:
            buffer.release()
