"""Measure what remote ranks cost: ``python -m tests.benchmarks.cluster``, from the root of the repository.

Each engine runs with all its processes on this machine.  Choose engines by ``--engine NAME`` or
``--engine NAME=OPTIONS``, the options of its start method as JSON.  Slurm, Ray and Dask must be running.

start      seconds of a whole launch of ranks that return at once.  Beside it: the engine's own start of as
           many interpreters that do nothing (``bare``), for an engine with a command, and `spawn`
failure    seconds from a rank's raise to the exception in the caller, while another rank sleeps
array      seconds of a launch whose ranks get an array (``--megabytes``), and the megabytes that went over
           the loopback interface meanwhile.  Beside it: ``N pickles``, an interpreter for each rank, to which
           a `multiprocessing.connection` sends its own pickle, and `spawn`

The contestants measure in turn, in one run; the table shows medians, and their ratios to the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Measure = Callable[[], tuple[float, float]]
"""Measures once: seconds, and MB over the loopback interface."""

BARE = {"mpi": ("mpiexec", "-n", "{n}"), "slurm": ("srun", "-n", "{n}", "--overcommit")}
STANDIN = [sys.executable, str(HERE.parent / "standin.py"), "{nprocs}", "STANDIN_RANK"]


def give(rank: int) -> int:
    """Return at once."""
    return rank


def measure_array(rank: int, values: Any) -> int:
    """Use the array."""
    return int(values[0]) + len(values)


def fail(rank: int) -> None:
    """Raise in rank 1 after a pause, in which rank 0 begins to sleep."""
    if rank == 0:
        time.sleep(300)
    time.sleep(0.2)
    raise ValueError(time.monotonic_ns())


def launch(
    engine: str, options: dict[str, Any], nprocs: int, fn: Any = give, *args: Any
) -> Measure:
    """Return a function that measures a launch that succeeds."""
    from procession import run

    def measure() -> tuple[float, float]:
        before, begun = read_traffic(), time.perf_counter()
        run(fn, list(args), nprocs, start_method=engine, options=options)
        return time.perf_counter() - begun, read_traffic() - before

    return measure


def launch_failing(engine: str, options: dict[str, Any]) -> Measure:
    """Return a function that measures a failure."""
    from procession import ProcessRaisedException, start_processes

    def measure() -> tuple[float, float]:
        try:
            start_processes(fail, nprocs=2, start_method=engine, options=options)
        except ProcessRaisedException as error:
            return (time.monotonic_ns() - int(error.failures[0].message)) / 1e9, 0.0
        raise AssertionError("it was to fail")

    return measure


def run_bare(engine: str, nprocs: int) -> Measure:
    """Return a function that measures the engine alone."""
    command = [part.replace("{n}", str(nprocs)) for part in BARE[engine]]
    beside = shutil.which(command[0], path=str(Path(sys.executable).parent))

    def measure() -> tuple[float, float]:
        begun = time.perf_counter()
        program = [beside or command[0], *command[1:], sys.executable, "-c", "pass"]
        subprocess.run(program, check=True, stdin=subprocess.DEVNULL)
        return time.perf_counter() - begun, 0.0

    return measure


def send_pickles(nprocs: int, values: Any) -> Measure:
    """Return a function that measures one pickle for each rank."""
    code = "import cluster, sys; cluster.receive_pickle(int(sys.argv[1]), int(sys.argv[2]))"

    def measure() -> tuple[float, float]:
        before, begun = read_traffic(), time.perf_counter()
        with Listener(("127.0.0.1", 0), authkey=b"benchmark") as listener:
            command = [sys.executable, "-c", code, str(listener.address[1])]
            ranks = [subprocess.Popen([*command, str(rank)], cwd=HERE) for rank in range(nprocs)]
            connections = [listener.accept() for _ in ranks]
            for connection in connections:
                connection.send((measure_array, (values,)))
            for connection in connections:
                connection.recv()
            for rank in ranks:
                rank.wait()
        return time.perf_counter() - begun, read_traffic() - before

    return measure


def receive_pickle(port: int, rank: int) -> None:
    """Act as a rank that receives its own pickle."""
    with Client(("127.0.0.1", port), authkey=b"benchmark") as connection:
        fn, args = connection.recv()
        connection.send(fn(rank, *args))


def read_traffic() -> float:
    """Return how many MB the loopback interface has sent."""
    with open("/proc/net/dev", encoding="ascii") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.partition(":")[2].split()[8]) / 1e6


def compare(title: str, contestants: dict[str, Measure], reference: str, rounds: int) -> None:
    """Measure the contestants in turn, and print the medians."""
    from printing import print_table

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            found[name].append(measure())
    own = statistics.median(seconds for seconds, _ in found[reference])
    table = [[title, "s", "least", "largest", f"/ {reference}", "MB sent"]]
    for name, figures in found.items():
        seconds = [each for each, _ in figures]
        middle = statistics.median(seconds)
        sent = statistics.median(each for _, each in figures)
        cells = (middle, min(seconds), max(seconds), middle / own, sent)
        table.append([name, *(f"{cell:.3g}" for cell in cells)])
    print_table(table)
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    import logging

    import numpy as np

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__)
    parser.add_argument("--engine", action="append", help="NAME or NAME=JSON; default: command")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    given = parser.parse_args(arguments)
    logging.getLogger("procession").setLevel(logging.ERROR)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    engines: dict[str, dict[str, Any]] = {}
    for text in given.engine or ["command"]:
        name, _, options = text.partition("=")
        engines[name] = json.loads(options or "{}")
    if engines.get("command") == {}:
        engines["command"] = {"command": STANDIN, "rank_variable": "STANDIN_RANK"}
    values = np.ones(given.megabytes * 125_000)
    n, rounds = given.ranks, given.rounds
    starts = {name: launch(name, options, n) for name, options in engines.items()}
    bare = {f"{name}, bare": run_bare(name, n) for name in engines if name in BARE}
    compare(
        f"start, {n} ranks", {"spawn": launch("spawn", {}, n), **starts, **bare}, "spawn", rounds
    )
    failures = {name: launch_failing(name, options) for name, options in engines.items()}
    compare("failure", {"spawn": launch_failing("spawn", {}), **failures}, "spawn", rounds)
    arrays = {name: launch(name, o, n, measure_array, values) for name, o in engines.items()}
    pickles = {
        "N pickles": send_pickles(n, values),
        "spawn": launch("spawn", {}, n, measure_array, values),
    }
    compare(f"array, {given.megabytes} MB", {**pickles, **arrays}, "N pickles", rounds)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    from cluster import main as run_main  # ranks find its functions there, not in __main__

    run_main()
