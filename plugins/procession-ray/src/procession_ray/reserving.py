"""Reserves resources for all ranks of a launch: a placement group with one bundle a rank."""

from __future__ import annotations

import importlib
import logging
import math
import time
from typing import Any, NoReturn

from procession import StartError
from procession.authoring import defer_sigint
from procession_ray.connection import ray
from procession_ray.options import Options
from procession_ray.slots import count_slots, tell_amounts

log: logging.Logger = logging.getLogger("procession")

_REMOVAL_TIME = 5.0  # seconds for Ray to remove a group


class Reservation:
    """The reserved resources of one launch."""

    def __init__(self, nprocs: int, options: Options) -> None:
        self._nprocs = nprocs
        self._options = options
        self.group: Any = None

    def make(self, until: float) -> None:
        """Reserve the resources.

        Raises:
            StartError: the cluster has too few, or they are not free by ``until`` (`time.monotonic`).
        """
        if not self._options.autoscaling and _count_all(self._options) < self._nprocs:
            self._fail("options={'autoscaling': True} waits for new nodes")
        bundles = [self._options.demand for _ in range(self._nprocs)]
        with (
            defer_sigint()
        ):  # an interrupt before the assignment would leave a group that nothing removes
            self.group = _groups().placement_group(bundles, strategy=self._options.strategy)
        # Ray rounds the seconds down
        if not self.group.wait(math.ceil(max(until - time.monotonic(), 1))):
            self._fail("not all are free within start_timeout")

    def list_places(self) -> list[tuple[str, int]]:
        """Return each rank's node and bundle; ranks of one node are consecutive, this node comes first."""
        by_bundle: dict[int, str] = _groups().placement_group_table(self.group)[
            "bundles_to_node_id"
        ]
        here = ray().get_runtime_context().get_node_id()
        order = list(dict.fromkeys(by_bundle[index] for index in sorted(by_bundle)))
        order.sort(key=lambda node: node != here)
        return sorted(
            ((node, index) for index, node in by_bundle.items()),
            key=lambda place: (order.index(place[0]), place[1]),
        )

    def remove(self) -> None:
        """Release the resources, which ends the tasks and actors that use them, and wait for that."""
        if self.group is None:
            return
        _groups().remove_placement_group(self.group)
        until = time.monotonic() + _REMOVAL_TIME
        while self._is_there():
            if time.monotonic() > until:
                log.warning("Ray has not removed placement group %s", self.group.id.hex())
                return
            time.sleep(0.005)

    def _is_there(self) -> bool:
        state = _groups().placement_group_table(self.group).get("state", "REMOVED")
        return bool(state != "REMOVED")

    def _fail(self, why: str) -> NoReturn:
        options = self._options
        room = tell_amounts(options.demand, ray().cluster_resources(), ray().available_resources())
        raise StartError(
            "ray",
            nprocs=self._nprocs,
            slots=_count_all(options),
            reason=f"strategy {options.strategy}; {room}; {why}",
        )


def _groups() -> Any:
    """Return Ray's module of placement groups."""
    return importlib.import_module("ray.util.placement_group")


def _count_all(options: Options) -> int:
    nodes = [node["Resources"] for node in ray().nodes() if node["Alive"]]
    return count_slots(nodes, options.demand, options.strategy)
