"""The kit certifies the start method on a cluster of one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing import RemoteConformance, ranks
from procession.testing.costs import count_descriptors
from procession.testing.subject import Subject
from ray_cluster import SLOTS, get_cluster, list_jobs


class TestRay(RemoteConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("ray")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        rank = {"num_cpus": 0, "resources": {"slot": 1}}  # Ray keeps a worker warm for each CPU
        return {"address": get_cluster().address, "transport": "connect", **rank}

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]]:
        return SLOTS + 1, {}

    @pytest.fixture
    def engine_jobs(self) -> Callable[[], Collection[object]]:
        return list_jobs

    @pytest.mark.parametrize("kind", ["child", "thread", "memory"])
    def test_nothing_is_left(self, subject: Subject, kind: str) -> None:
        """test_ray_backend counts the descriptors: Ray keeps a connection to each worker that it has used."""
        super().test_nothing_is_left(subject, kind)

    def test_a_rank_costs_two_descriptors(self, subject: Subject) -> None:
        """Ray has one more."""
        subject.run(ranks.nothing)
        counts = []
        for nprocs in (4, 8):
            before = count_descriptors()
            with subject.start(ranks.work, str(subject.folder), nprocs=nprocs):
                counts.append(count_descriptors() - before)
        assert counts[1] - counts[0] <= 3 * 4
