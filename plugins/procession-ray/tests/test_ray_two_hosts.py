"""Two nodes on two hosts: rank 0 connects to its caller; rank 1 cannot, so Ray carries its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing import remote_ranks
from procession.testing.hosts import FarHost
from procession.testing.subject import Subject
from procession.testing.two_hosts import TwoHostConformance
from procession_ray.connection import ray
from ray_cluster import Cluster


class TestTwoHosts(TwoHostConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, far: FarHost) -> Iterator[Cluster]:
        ray().shutdown()
        cluster = Cluster(far.near_address)
        try:
            cluster.start_head(cpus=1)
            cluster.await_head()
            cluster.start_node(far.far_address, far.prefix, cpus=1)
            cluster.connect()
            yield cluster
        finally:
            ray().shutdown()
            cluster.stop()

    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("ray")

    @pytest.fixture
    def launch_options(self, cluster: Cluster) -> Mapping[str, Any]:
        return {"strategy": "STRICT_SPREAD"}

    def test_an_address_is_advertised(self, subject: Subject, far: FarHost) -> None:
        options = {**subject.options, "advertise": far.near_address, "transport": "connect"}
        where = subject.run(remote_ranks.list_addresses, options=options)
        assert [far.far_address in addresses for addresses in where] == [False, True]
