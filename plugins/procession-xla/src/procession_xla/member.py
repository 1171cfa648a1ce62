"""A rank of the start method: how it begins, connects to the other ranks, and disconnects from them."""

from __future__ import annotations

import atexit
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from procession.authoring import find_initialised, when_imported
from procession_xla.cluster import register_cluster
from procession_xla.coordinator import prepare_coordinator
from procession_xla.flags import take_over_environment
from procession_xla.place import Place


def enter(rank: int, place: Place) -> Callable[[bool], None] | None:
    """Prepare this rank before it imports the modules of its function; return the function that ends it."""
    global _current
    if place["framework"] != "jax":
        return None
    _current = member = Member(rank, place)
    if "jax" in sys.modules:
        member.refuse_initialised()
        take_over_environment(place["changed"])
    when_imported("jax._src.clusters", lambda: register_cluster(rank, place))
    if place["distributed"]:
        member.initialize()
    return member.leave


def initialize(**arguments: Any) -> None:
    """Connect this rank to the others: call `jax.distributed.initialize` with this rank's arguments.

    Call it before the first use of a device.  It does nothing in a rank that is already connected.

    Args:
        arguments: arguments of `jax.distributed.initialize` that replace those of the launch.

    Raises:
        RuntimeError: this process is no rank of start method ``xla``, or has used a device already.
        TimeoutError: rank 0 did not call it in time.
    """
    if _current is None:
        raise RuntimeError("procession_xla.initialize() is for ranks of start_method='xla' on JAX")
    _current.initialize(**arguments)


@dataclass(frozen=True, slots=True)
class Member:
    """The rank that this process is, and its place in the launch."""

    rank: int
    place: Place

    def initialize(self, **arguments: Any) -> None:
        """Connect to the other ranks, unless this rank is already connected."""
        from jax import distributed

        if distributed.is_initialized():
            return
        chosen = {
            "coordinator_address": self.place["coordinator"],
            "num_processes": self.place["nprocs"],
            "process_id": self.rank,
            "local_device_ids": self.place["local_device_ids"],
            "initialization_timeout": self.place["initialization_timeout"],
            "heartbeat_timeout_seconds": self.place["heartbeat_timeout"],
            "shutdown_timeout_seconds": self.place["shutdown_timeout"],
            "cluster_detection_method": "deactivate",  # nothing is left to detect
            **arguments,
        }
        prepare_coordinator(self.rank, self.place)
        distributed.initialize(**chosen)

    def refuse_initialised(self) -> None:
        """Refuse to be a fork of a process with initialised JAX devices: their first use would hang."""
        if "jax" in find_initialised().get("XLA", []):
            raise RuntimeError(
                "JAX has initialised its devices in the process that this rank is a fork of "
                f"({self.place['base']}): a module imported there must not use JAX at its import. Remove it "
                "from options['preload'], or use options={'base': 'spawn'}"
            )

    def leave(self, succeeded: bool) -> None:
        """Shut down JAX's distributed runtime if all ranks succeeded; else leave it without a message."""
        jax: Any = sys.modules.get("jax")
        if jax is None:
            return
        if not succeeded:
            clean_up: Any = getattr(sys.modules.get("jax._src.api"), "clean_up", None)
            atexit.unregister(clean_up)  # it would wait minutes for ranks that have ended
        elif jax.distributed.is_initialized():
            jax.distributed.shutdown()
        elif self.rank == 0:
            self._warn_of_isolation()

    def _warn_of_isolation(self) -> None:
        alone = self.place["distributed"] is None and self.place["nprocs"] > 1
        if alone and "XLA" in find_initialised():
            warnings.warn(
                "the ranks used JAX without a connection: each saw only its own devices. Use "
                "options={'distributed': True}, or call procession_xla.initialize() first in the "
                "function; for independent ranks, use options={'distributed': False}",
                RuntimeWarning,
                stacklevel=2,
            )


_current: Member | None = None
"""The rank that this process is; None if it is not a rank."""
