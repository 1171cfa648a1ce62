"""Tells JAX a rank's place where it asks for one: in `jax.distributed.initialize()` without arguments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procession_xla.member import Member


def register_cluster(member: Member) -> None:
    """Have JAX find this rank's place before that of any other cluster, Slurm's for one.

    JAX has no public way to add a cluster; where this one goes, `procession_xla.initialize` still works.
    """
    clusters: Any = sys.modules["jax._src.clusters"]

    class ProcessionCluster(clusters.ClusterEnv):  # type: ignore[misc]
        """A rank's place, as JAX asks for it."""

        name = "procession"

        @classmethod
        def is_env_present(cls) -> bool:
            """Tell that there is one: this process is a rank."""
            return True

        @classmethod
        def get_coordinator_address(cls, *_: object, **__: object) -> str:
            """Return the address of rank 0."""
            return member.place["coordinator"]

        @classmethod
        def get_process_count(cls) -> int:
            """Return the number of ranks."""
            return member.place["nprocs"]

        @classmethod
        def get_process_id(cls) -> int:
            """Return the rank, once rank 0 can be connected to."""
            member.prepare_coordinator()
            return member.rank

    known = getattr(clusters.ClusterEnv, "_cluster_types", None)
    if known is not None and ProcessionCluster in known:
        known.remove(ProcessionCluster)
        known.insert(0, ProcessionCluster)
