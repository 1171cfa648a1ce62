"""Certifies an installed backend: ``pytest --pyargs procession.testing --procession-backend NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from procession.protocol import Backend
from procession.registry import get_backend
from procession.testing.conformance import BackendConformance


class TestBackend(BackendConformance):
    """The backend that the command line names."""

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        """Return the backend of ``--procession-backend``."""
        name = request.config.getoption("--procession-backend")
        if not name:
            pytest.skip("give the name of a start method: --procession-backend NAME")
        return get_backend(name)

    @pytest.fixture
    def launch_options(self, request: pytest.FixtureRequest) -> Mapping[str, Any]:
        """Return the options of ``--procession-option``."""
        given: Any = request.config.getoption("--procession-option")
        return dict(given)
