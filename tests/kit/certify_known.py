"""The kit, applied to a backend with a known failure and a wrongly expected one, and to a remote backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from sound import Far
from wrong import LiesAboutDaemons

from procession.protocol import Backend
from procession.testing import BackendConformance


class TestKnown(BackendConformance):
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_daemons_can_not": "it knows of no daemons",
        "test_fn_gets_the_rank_and_args": "it would, if it were wrong",
    }

    @pytest.fixture
    def backend(self) -> Backend:
        return LiesAboutDaemons()

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"fork_check": "off"}


class TestFar(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return Far()

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"fork_check": "off"}
