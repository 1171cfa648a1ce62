"""Measure what a launch by Dask costs: ``python dask_benchmark.py`` prints medians in seconds.

Run it on a quiet machine.
"""

from __future__ import annotations

import os
import pickle
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import dask_ranks
from dask_cluster import THREADS, await_single_threads, get_client
from procession import ProcessException, run, start_processes
from procession.testing import remote_ranks
from procession.testing.scratch import Stage

ROUNDS = 5
SIZE = 200_000_000


def tell_time(rank: int, data: bytes = b"") -> float:
    return time.monotonic()


def raise_late(rank: int, folder: str) -> None:
    stage = remote_ranks.settle(rank, folder)
    if rank == 0:
        time.sleep(300)
    stage.await_cue("asleep 0")
    raise ValueError(time.monotonic())


def start(options: Mapping[str, Any], nprocs: int, *args: Any) -> float:
    """Return the seconds until all ranks are in their function."""
    begun = time.monotonic()
    return max(run(tell_time, args, nprocs, start_method="dask", options=options)) - begun


def fail(options: Mapping[str, Any], whom: str) -> float:
    """Return the seconds from a failure to the exception."""
    with tempfile.TemporaryDirectory() as folder:
        fn = raise_late if whom == "raise" else remote_ranks.sleep
        context = start_processes(fn, (folder,), 2, False, start_method="dask", options=options)
        stage = Stage(folder, 0)
        agent = int(stage.await_cue("agent 1"))
        stage.await_cue("asleep 0")
        stage.await_cue("asleep 1")
        begun = time.monotonic()
        if whom != "raise":
            os.kill(
                {"rank": context.pids()[1], "agent": agent}.get(whom)
                or dask_ranks.get_parent(agent),
                signal.SIGKILL,
            )
        try:
            context.wait()
        except ProcessException as error:
            raised = error.failures[0].message
            return time.monotonic() - (float(raised) if whom == "raise" else begun)
    raise AssertionError("no failure")


def measure(label: str, call: Callable[..., float], *args: Any) -> None:
    took = []
    for _ in range(ROUNDS):
        workers = sorted(await_single_threads())
        took.append(
            call(*args) if call is not fail else call({**args[0], "workers": workers}, args[1])
        )
    print(f"{label:50} {statistics.median(took):.3f}  (max {max(took):.3f})", flush=True)


def pickle_often(data: bytes) -> float:
    begun = time.monotonic()
    for _ in range(4):
        pickle.loads(pickle.dumps(data))
    return time.monotonic() - begun


def main() -> None:
    data = os.urandom(SIZE)
    await_single_threads()
    print(f"threads: {THREADS}; rounds: {ROUNDS}")
    for transport in ("connect", "dask"):
        options = {"client": get_client(), "transport": transport}
        for nprocs in (2, 4, 8):
            measure(f"{transport}: {nprocs} ranks are in fn", start, options, nprocs)
        measure(f"{transport}: 4 ranks are in fn, with {SIZE:,} bytes", start, options, 4, data)
        for whom in ("raise", "rank", "agent", "worker"):
            how = "raises" if whom == "raise" else "is killed"
            measure(
                f"{transport}: {'rank' if whom == 'raise' else whom} {how}", fail, options, whom
            )
    measure("four pickles and unpickles of that, in one process", pickle_often, data)


if __name__ == "__main__":
    main()
