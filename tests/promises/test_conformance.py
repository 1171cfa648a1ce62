"""The built-in start methods pass the conformance kit, as every backend must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing import BackendConformance

pytestmark = pytest.mark.faults


class TestFork(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("fork")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"fork_check": "off"}


class TestSpawn(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("spawn")


class TestForkserver(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("forkserver")
