"""A Dask cluster on this machine for all tests of one run: a scheduler, and workers under nannies.

The scheduler can import neither procession nor this plugin, and need not.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from procession_dask.clients import load
from procession_dask.tasks import Call

THREADS = 30, 1, 1
"""The threads of each worker."""

_PATIENCE = 60.0
_DASK = "import runpy; runpy.run_module('dask', run_name='__main__', alter_sys=True)"
_HIDING = f"import sys; sys.modules.update(procession=None, procession_dask=None); {_DASK}"


@dataclass
class Cluster:
    """The processes of a cluster, and the address of its scheduler."""

    folder: Path
    host: str
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    def start_scheduler(self, prefix: Sequence[str] = ()) -> None:
        self._start([*prefix, sys.executable, "-c", _HIDING], "scheduler", "--port", str(self.port))

    def start_worker(
        self, threads: int, *, host: str = "", prefix: Sequence[str] = (), hiding: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a worker; with ``hiding`` it lacks what ranks need, and has no nanny."""
        arguments = [self.address, "--nworkers", "1", "--nthreads", str(threads)]
        arguments += ["--local-directory", str(self.folder), *(["--no-nanny"] if hiding else [])]
        python = [*prefix, sys.executable, "-c", _HIDING if hiding else _DASK]
        return self._start(python, "worker", *arguments, host=host)

    def connect(self, workers: int) -> Any:
        """Wait until so many workers are there, and return a client."""
        client = load().Client(self.address, timeout=_PATIENCE, set_as_default=False)
        client.wait_for_workers(workers, timeout=_PATIENCE)
        return client

    def stop(self) -> None:
        for process in reversed(self.processes):
            end(process)

    def _start(
        self, python: Sequence[str], what: str, *arguments: str, host: str = ""
    ) -> subprocess.Popen[bytes]:
        command = [*python, what, *arguments, "--host", host or self.host, "--no-dashboard"]
        with open(self.folder / f"{what}-{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
            )
        self.processes.append(process)
        return process


def create_cluster(host: str = "127.0.0.1") -> Cluster:
    """Return a cluster without workers; it ends with this process at the latest."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="procession-dask-")), host, find_port())
    atexit.register(shutil.rmtree, cluster.folder, ignore_errors=True)
    atexit.register(cluster.stop)
    return cluster


@functools.cache
def get_cluster() -> Cluster:
    """Return the cluster of this run."""
    cluster = create_cluster()
    cluster.start_scheduler()
    for threads in THREADS:
        cluster.start_worker(threads)
    return cluster


@functools.cache
def get_client() -> Any:
    """Return a client of that cluster, which is not the default client."""
    client = get_cluster().connect(len(THREADS))
    atexit.register(client.close)
    return client


def await_single_threads() -> list[str]:
    """Wait for the workers with one thread, and return their addresses."""
    until = time.monotonic() + _PATIENCE
    while True:
        threads: Mapping[str, int] = get_client().nthreads()
        if sorted(threads.values(), reverse=True) == sorted(THREADS, reverse=True):
            return [address for address, count in threads.items() if count == 1]
        assert time.monotonic() < until, threads
        time.sleep(0.05)


def submit(workers: Sequence[str], fn: Callable[..., Any], *args: Any) -> Any:
    """Return the future of a task on one of these workers; the scheduler need not import its function."""
    return get_client().submit(
        pickle.loads, pickle.dumps(Call(fn, *args)), workers=workers, pure=False
    )


def list_jobs() -> Collection[str]:
    """Return the keys of all tasks that the scheduler knows, in any state."""
    keys: list[str] = get_client().run_on_scheduler(_list_tasks)
    return keys


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of a cluster."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _list_tasks(dask_scheduler: Any) -> list[str]:
    return [*dask_scheduler.tasks]


_list_tasks.__module__ = "__main__"  # pickled by value: the scheduler does not have this module
