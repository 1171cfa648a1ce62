"""An author's test file: it certifies a backend that does something else before it starts ranks.

ACT in the environment says what.  A test copies this file to a name that pytest collects.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

from procession import Backend, Launch, Started
from procession.backends.fork import ForkBackend
from procession.testing import BackendConformance


def act(nprocs: int) -> None:
    """End this process, or the run of pytest, before a launch of one rank; or sleep before any."""
    name = os.environ["ACT"]
    if name == "sleep":
        Path("begun").touch()
        time.sleep(60)
    elif nprocs > 1:
        pass
    elif name == "_exit":
        os._exit(0)
    elif name == "exit in C":
        ctypes.CDLL(None).exit(0)
    elif name == "exec":
        os.execvp("true", ["true"])
    else:
        pytest.exit("enough", returncode=0)


class Mine(ForkBackend):
    def start(self, launch: Launch) -> Started:
        act(launch.nprocs)
        return super().start(launch)


class TestMine(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return Mine()
