"""The kit certifies the start method with each of its base methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from procession import Backend, get_backend
from procession.testing import BackendConformance


class TestByForkserver(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("xla")


class TestBySpawn(TestByForkserver):
    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"base": "spawn"}


class TestByFork(TestByForkserver):
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_args_that_cannot_be_pickled_are_refused": "a fork pickles nothing",
        "test_args_that_cannot_be_unpickled_are_told": "a fork pickles nothing",
        "test_env_is_in_force_before_args_are_unpickled": "a fork pickles nothing",
    }

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"base": "fork"}
