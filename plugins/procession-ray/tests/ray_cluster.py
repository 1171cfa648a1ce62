"""A Ray cluster on this machine for all tests of one run; it is ended by process ids."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from procession_ray.connection import ray

CPUS = 2
"""Ray starts as many workers in advance for each caller that connects."""

SLOTS = 16

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # otherwise it depends on a file in the user's home
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_num_workers_soft_limit": str(SLOTS),  # workers that are kept for the next launch
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_worker_niceness": "0",  # otherwise other programs of this machine come before the ranks
}
_PATIENCE = 90.0


@dataclass
class Cluster:
    """The processes of a cluster, and its address."""

    host: str = "127.0.0.1"
    port: int = 0
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray-")))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start_head(self, cpus: int = CPUS) -> None:
        self.port = find_port(self.host)
        more = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}"]
        self._start([], *more, "--include-dashboard=false", cpus=cpus, host=self.host)

    def start_node(self, host: str, prefix: Sequence[str], cpus: int = CPUS) -> None:
        self._start(prefix, f"--address={self.address}", cpus=cpus, host=host)

    def connect(self) -> None:
        """Connect this process, and wait until all nodes are there."""
        self.await_head()
        os.environ.update(environment())
        ray().init(self.address, log_to_driver=False, logging_level="ERROR")
        until = time.monotonic() + _PATIENCE
        while sum(node["Alive"] for node in ray().nodes()) < len(self.processes):
            assert time.monotonic() < until, "a node does not come up"
            time.sleep(0.05)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)  # `ray start --block` then ends its children
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, prefix: Sequence[str], *arguments: str, cpus: int, host: str) -> None:
        command = [
            *prefix,
            sys.executable,
            "-c",
            "from ray.scripts.scripts import main; main()",
            "start",
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={host}",
            f"--num-cpus={cpus}",
            f'--resources={{"slot": {SLOTS}}}',
            "--object-store-memory=1200000000",
            *arguments,
        ]
        with open(self.folder / f"start-{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        self.processes.append(process)

    def await_head(self) -> None:
        until = time.monotonic() + _PATIENCE
        log = self.folder / "start-0.log"
        while b"Ray runtime started" not in log.read_bytes():
            alive = self.processes[0].poll() is None and time.monotonic() < until
            assert alive, f"Ray does not start:\n{log.read_text()[-3000:]}"
            time.sleep(0.05)


def get_cluster() -> Cluster:
    """Return the cluster of this run, with this process connected to it."""
    cluster = _start_cluster()
    if not ray().is_initialized():
        cluster.connect()
    return cluster


@functools.cache
def _start_cluster() -> Cluster:
    cluster = Cluster()
    atexit.register(cluster.stop)
    cluster.start_head()
    return cluster


def environment() -> dict[str, str]:
    """Return the environment of all processes that use a cluster here."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, **_ENVIRONMENT}


def list_jobs() -> list[str]:
    """Return the placement groups, actors and resources in use in the cluster of this process."""
    table = ray().util.placement_group_table()
    found = [f"group {key}: {group['state']}" for key, group in table.items()]
    found = [each for each in found if not each.endswith("REMOVED")]
    actors: dict[str, Any] = ray()._private.state.actors()
    found += [f"actor {key}" for key, actor in actors.items() if actor["State"] != "DEAD"]
    total, free = ray().cluster_resources(), ray().available_resources()
    used = [name for name in ("CPU", "slot") if free.get(name, 0) < total[name]]
    return found + [f"{name} in use" for name in used]


def find_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
    return port
