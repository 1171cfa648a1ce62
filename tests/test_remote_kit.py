"""The start method `command` is certified, on a script that stands in for a batch system's launcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import standin
from procession import Backend, get_backend
from procession.testing import RemoteConformance
from procession.testing.hosts import FarHost
from procession.testing.two_hosts import TwoHostConformance


class TestCommand(RemoteConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("command")

    @pytest.fixture
    def launch_options(self, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.setenv("STANDIN", "")
        return standin.options()


class TestTwoHosts(TwoHostConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("command")

    @pytest.fixture
    def launch_options(self, far: FarHost, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.setenv("STANDIN", "")
        return standin.options(
            f"if rank: command = {list(far.prefix)!r} + command", advertise=far.near_address
        )
