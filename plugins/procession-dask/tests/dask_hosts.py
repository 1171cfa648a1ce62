"""Two network namespaces of this machine in place of two hosts, and a cluster over both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dask_cluster import Cluster, create_cluster

NEAR, FAR = "10.99.77.1", "10.99.77.2"
_NAMES = [f"pdask{os.getpid() % 100_000}{which}" for which in "nf"]  # of namespaces and interfaces


@dataclass
class Hosts:
    """A cluster: the scheduler and the first worker are on the near host, the second one on the far host."""

    cluster: Cluster

    def run(self, source: str, *arguments: str) -> str:
        """Run a program on the near host, and return its output."""
        command = [*enter(0), sys.executable, "-c", source, self.cluster.address, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def cut() -> list[str]:
        """Return the command that cuts the link; the near host can run it, too."""
        return ["ip", "link", "set", _NAMES[0], "down"]


def why_not() -> str:
    """Return the reason why there cannot be two hosts here, or an empty string."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    try:
        done = subprocess.run(["ip", "netns", "add", _NAMES[0]], capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no command ip here"
    if done.returncode:
        return f"network namespaces cannot be made here: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", _NAMES[0]], check=True)
    return ""


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Provide two hosts with their cluster while the block runs."""
    cluster = create_cluster(NEAR)
    try:
        _make_hosts()
        cluster.start_scheduler(enter(0))
        cluster.start_worker(2, prefix=enter(0))
        cluster.start_worker(2, prefix=enter(1), host=FAR)
        yield Hosts(cluster)
    finally:
        cluster.stop()
        for name in _NAMES:
            subprocess.run(["ip", "netns", "delete", name])


def enter(which: int) -> list[str]:
    """Return the prefix of a command that runs on the near (0) or far (1) host."""
    return ["ip", "netns", "exec", _NAMES[which]]


def _make_hosts() -> None:
    for name in _NAMES:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
    near, far = _NAMES
    _ip("link", "add", near, "netns", near, "type", "veth", "peer", "name", far, "netns", far)
    for name, address in zip(_NAMES, (NEAR, FAR), strict=True):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", name)
        _ip("-n", name, "link", "set", name, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
