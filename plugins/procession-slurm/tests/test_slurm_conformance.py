"""The kit certifies the start method on a real Slurm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing import RemoteConformance
from slurm_cluster import CPUS, Cluster, cluster

__all__ = ["cluster"]


class TestBySrun(RemoteConformance):
    @pytest.fixture
    def backend(self, cluster: Cluster) -> Backend:
        return get_backend("slurm")

    @pytest.fixture
    def launch_options(self, cluster: Cluster) -> Mapping[str, Any]:
        return {"advertise": cluster.address}

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]]:
        return CPUS + 1, {}

    @pytest.fixture
    def engine_jobs(self, cluster: Cluster) -> Callable[[], Collection[object]]:
        return cluster.list_jobs
