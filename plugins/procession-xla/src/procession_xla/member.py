"""A rank of the start method: how it begins, connects to the others, and leaves with them."""

from __future__ import annotations

import atexit
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from procession._launch.fork_check import find_initialised
from procession._rank.identity import when_imported
from procession_xla.cluster import register_cluster
from procession_xla.coordinator import await_coordinator, is_listening
from procession_xla.flags import take_over_environment


class Place(TypedDict):
    """What the ranks of a launch are told."""

    nprocs: int
    base: str
    framework: str
    changed: list[str]  # names of the variables that ranks have of their own
    coordinator: str
    reserved: bool  # whether the launcher keeps the coordinator's port
    local_device_ids: list[int] | None
    distributed: bool | None
    initialization_timeout: int
    heartbeat_timeout: int
    shutdown_timeout: int


def enter(rank: int, place: Place) -> Callable[[bool], None] | None:
    """Make this process ready to be a rank, before it imports anything of its function's."""
    global _current
    if place["framework"] != "jax":
        return None
    _current = member = Member(rank, place)
    if "jax" in sys.modules:
        member.refuse_initialised()
        take_over_environment(place["changed"])
    when_imported("jax._src.clusters", lambda: register_cluster(member))
    if place["distributed"]:
        member.initialize()
    return member.leave


def initialize(**arguments: Any) -> None:
    """Connect this rank to the others: `jax.distributed.initialize` with this rank's arguments.

    Nothing happens where it is connected already.  It must come before the first use of a device.

    Args:
        arguments: what is to be other than the launch says.

    Raises:
        RuntimeError: this process is no rank of start method ``xla``, or has used a device already.
        TimeoutError: rank 0 has not called it in time.
    """
    if _current is None:
        raise RuntimeError("procession_xla.initialize() is for ranks of start_method='xla' on JAX")
    _current.initialize(**arguments)


@dataclass(frozen=True, slots=True)
class Member:
    """The rank that this process is, and what it was told."""

    rank: int
    place: Place

    def initialize(self, **arguments: Any) -> None:
        """Connect to the others, if that is not done yet."""
        from jax import distributed

        if distributed.is_initialized():
            return
        told = {
            "coordinator_address": self.place["coordinator"],
            "num_processes": self.place["nprocs"],
            "process_id": self.rank,
            "local_device_ids": self.place["local_device_ids"],
            "initialization_timeout": self.place["initialization_timeout"],
            "heartbeat_timeout_seconds": self.place["heartbeat_timeout"],
            "shutdown_timeout_seconds": self.place["shutdown_timeout"],
            "cluster_detection_method": "deactivate",  # nothing is left to be detected
            **arguments,
        }
        self.prepare_coordinator()
        distributed.initialize(**told)

    def prepare_coordinator(self) -> None:
        """Wait for rank 0, or, in rank 0, see that it can listen: JAX would crash where it cannot."""
        address = self.place["coordinator"]
        if self.rank:
            await_coordinator(address, self.place["initialization_timeout"])
        elif not self.place["reserved"] and is_listening(address):
            raise RuntimeError(f"options['coordinator']: {address} is in use already")

    def refuse_initialised(self) -> None:
        """Refuse to be a fork of a process in which JAX has its devices: their first use would hang."""
        if "jax" in find_initialised().get("XLA", []):
            raise RuntimeError(
                "JAX has initialised its devices in the process that this rank is a fork of "
                f"({self.place['base']}): what is imported there must not use JAX at its import. Take it "
                "out of options['preload'], or use options={'base': 'spawn'}"
            )

    def leave(self, succeeded: bool) -> None:
        """Leave JAX's distributed runtime: in order if all ranks do, else without another word."""
        jax: Any = sys.modules.get("jax")
        if jax is None:
            return
        if not succeeded:
            clean_up: Any = getattr(sys.modules.get("jax._src.api"), "clean_up", None)
            atexit.unregister(clean_up)  # it waits minutes for ranks that will not come
        elif jax.distributed.is_initialized():
            jax.distributed.shutdown()
        elif self.rank == 0:
            self._warn_of_isolation()

    def _warn_of_isolation(self) -> None:
        alone = self.place["distributed"] is None and self.place["nprocs"] > 1
        if alone and "XLA" in find_initialised():
            warnings.warn(
                "the ranks used JAX without being connected: each saw its own devices only. Use "
                "options={'distributed': True}, or call procession_xla.initialize() first in the "
                "function; if they are to be independent, options={'distributed': False} says so",
                RuntimeWarning,
                stacklevel=2,
            )


_current: Member | None = None
"""The rank that this process is; None in a process that is none."""
