"""Two hosts: mpiexec reaches the second by a launcher that stands in for ssh."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from procession import Backend, get_backend
from procession.testing.hosts import FarHost
from procession.testing.two_hosts import TwoHostConformance


class TestTwoHosts(TwoHostConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("mpi")

    @pytest.fixture
    def launch_options(self, far: FarHost, tmp_path: Path) -> Mapping[str, Any]:
        """Options: mpiexec starts a proxy on each host by ``LAUNCHER -x HOST COMMAND...``, as by ssh."""
        enter = shlex.join(far.prefix)
        launcher = tmp_path / "launcher"
        launcher.write_text(
            '#!/bin/sh\nwhile [ "$1" = -x ]; do shift; done; host=$1; shift\n'
            f'[ "$host" = {far.far_address} ] && exec {enter} sh -c "$*"; exec sh -c "$*"\n'
        )
        launcher.chmod(0o755)
        return {
            "advertise": far.near_address,
            "hosts": [f"{far.near_address}:1", f"{far.far_address}:1"],
            "launcher": "ssh",
            "launcher_exec": str(launcher),
        }
