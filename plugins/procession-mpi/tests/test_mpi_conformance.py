"""The kit certifies the start method with MPICH's mpiexec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing import RemoteConformance


class TestMpich(RemoteConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("mpi")

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]]:
        return 5, {"hosts": ["localhost:4"]}
