"""Compare small calls with pools: ``python tests/benchmarks/pools.py``, from the root of the repository.

first   ms for the first two results, of two workers, in a process that has imported the library
again   ms for two more results: pools have kept their workers, procession launches new ranks
call    µs for one of 5,000 calls that return at once; procession hands them out through queues

Each figure is the least of seven rounds, which other programs disturbed least.  Each round starts a process
for each library in turn.  Functions import what only one library needs, since workers import this module.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from procession import get_context, run, start_processes

ROUNDS = 7
WORKERS = 2
CALLS = 5_000


def give(item: int) -> int:
    """Return at once."""
    return item


def serve(rank: int, tasks: Any, answers: Any) -> None:
    """Answer tasks until none is left."""
    for item in iter(tasks.get, None):
        answers.put(give(item))


def measure_ranks(start_method: str) -> list[float]:
    """Measure launches of ranks, and queues that hand out calls."""
    first, again = (
        seconds(lambda: run(give, (), WORKERS, start_method=start_method)) for _ in "12"
    )
    return [first, again, seconds(lambda: hand_out(start_method)) / CALLS]


def hand_out(start_method: str) -> None:
    """Make all calls through queues."""
    queues = get_context(start_method)
    tasks, answers = queues.Queue(), queues.SimpleQueue()
    for item in [*range(CALLS), *[None] * WORKERS]:
        tasks.put(item)
    with start_processes(
        serve, (tasks, answers), WORKERS, join=False, start_method=start_method
    ) as context:
        for _ in range(CALLS):
            answers.get()
        context.wait()


def measure_futures(_: str) -> list[float]:
    """Measure an executor of the standard library."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        first, again = (seconds(lambda: list(pool.map(give, range(WORKERS)))) for _ in "12")
        return [first, again, seconds(lambda: list(pool.map(give, range(CALLS)))) / CALLS]


def measure_joblib(_: str) -> list[float]:
    """Measure joblib, whose workers are loky's."""
    joblib: Any = importlib.import_module("joblib")

    def call(times: int) -> None:
        joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(give)(item) for item in range(times))

    first, again = (seconds(lambda: call(WORKERS)) for _ in "12")
    return [first, again, seconds(lambda: call(CALLS)) / CALLS]


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of a call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


CONTESTANTS: dict[str, tuple[Callable[[str], list[float]], str]] = {
    "procession spawn": (measure_ranks, "spawn"),
    "procession forkserver": (measure_ranks, "forkserver"),
    "concurrent.futures": (measure_futures, ""),
    "joblib": (measure_joblib, ""),
}


def main() -> None:
    """Measure all libraries in turn, and print a table."""
    import subprocess

    found: dict[str, list[list[float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name, rounds in found.items():
            command = [sys.executable, __file__, name]
            rounds.append(json.loads(subprocess.check_output(command)))
    print(f"{'':24}{'first, ms':>12}{'again, ms':>12}{'call, µs':>12}")
    for name, rounds in found.items():
        first, again, call = map(min, zip(*rounds, strict=True))
        print(f"{name:24}{first * 1e3:12.1f}{again * 1e3:12.1f}{call * 1e6:12.0f}")


if __name__ == "__main__":
    if sys.argv[1:]:
        measure, start_method = CONTESTANTS[sys.argv[1]]
        print(json.dumps(measure(start_method)))
    else:
        main()
