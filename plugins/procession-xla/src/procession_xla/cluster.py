"""Gives JAX a rank's place when `jax.distributed.initialize()` is called without arguments."""

from __future__ import annotations

import sys
from typing import Any

from procession_xla.coordinator import prepare_coordinator
from procession_xla.place import Place


def register_cluster(rank: int, place: Place) -> None:
    """Register a JAX cluster for this rank, which JAX finds before any other, such as Slurm's.

    JAX has no public way to add a cluster.  If a release of JAX drops this one, `procession_xla.initialize`
    still works.
    """
    clusters: Any = sys.modules["jax._src.clusters"]

    class ProcessionCluster(clusters.ClusterEnv):  # type: ignore[misc]
        """This rank's place, in the form that JAX asks for."""

        name = "procession"

        @classmethod
        def is_env_present(cls) -> bool:
            """Return True: this process is a rank."""
            return True

        @classmethod
        def get_coordinator_address(cls, *_: object, **__: object) -> str:
            """Return the address of the coordinator, which rank 0 runs."""
            return place["coordinator"]

        @classmethod
        def get_process_count(cls) -> int:
            """Return the number of ranks."""
            return place["nprocs"]

        @classmethod
        def get_process_id(cls) -> int:
            """Return the rank, once rank 0 accepts connections."""
            prepare_coordinator(rank, place)
            return rank

    known = getattr(clusters.ClusterEnv, "_cluster_types", None)
    if known is not None and ProcessionCluster in known:
        known.remove(ProcessionCluster)
        known.insert(0, ProcessionCluster)
