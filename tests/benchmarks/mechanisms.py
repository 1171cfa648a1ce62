"""Measure each mechanism of supervision alone: ``python tests/benchmarks/mechanisms.py``.

Print the median, the least and the largest of some repetitions.  Other programs show in the largest.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from callers import Caller
from procession import ProcessRaisedException, start_processes
from procession._cleanup import cgroups, marks, reaper_client
from procession._launch import death_pipes, fork_check
from procession._linux import fds
from procession._rank import parent_death, stacks
from procession.testing.scratch import state_of

Measure = Callable[[], float]


def clock(function: Callable[[], object]) -> Measure:
    """Return a function that measures one call, in seconds."""

    def measure() -> float:
        begun = time.perf_counter()
        function()
        return time.perf_counter() - begun

    return measure


def arm() -> None:
    """Bind this process to a death pipe, and unbind it."""
    os.close(parent_death.arm(os.dup(death_pipes.own_pipe())))


def scan() -> None:
    """Search the processes for a mark that none has."""
    marks.find(1 << 61)


def tell_reaper() -> None:
    """Tell the reaper of a launch, and of its end."""
    reaper_client.announce(1 << 61)
    reaper_client.withdraw(1 << 61)


def start_reaper() -> float:
    """Start a reaper; return the time that this takes in this process."""
    with fds.LOCK:
        took = clock(reaper_client._start)()
    assert reaper_client._line is not None
    time.sleep(0.05)  # it starts up meanwhile, and would slow the next measurement
    return took


def weigh_reaper() -> str:
    """Return the memory of the reaper, shared pages divided among their users."""
    assert reaper_client._line is not None
    text = Path(f"/proc/{reaper_client._line[3]}/smaps_rollup").read_text()
    (size,) = re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return f"{int(size) / 1024:.1f} MiB"


def raise_in_one(rank: int, path: str) -> None:
    """Raise in rank 0, and write the time to a file."""
    if rank == 0:
        time.sleep(0.1)  # the others start meanwhile
        Path(path).write_text(repr(time.monotonic()))
        raise ValueError("measured")
    time.sleep(60)


def detect(start_method: str) -> float:
    """Return how long after the raise in a rank its caller has the exception, with 8 ranks."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            start_processes(raise_in_one, (file.name,), 8, start_method=start_method)
        except ProcessRaisedException:
            return time.monotonic() - float(Path(file.name).read_text())
    raise AssertionError("nothing was raised")


def kill_caller(start_method: str) -> float:
    """Return how long after its SIGKILL a caller's ranks, and what they started, are gone."""
    with tempfile.TemporaryDirectory() as folder:
        caller = Caller(Path(folder), start_method, "descendants", stderr=subprocess.DEVNULL)
        caller.await_ranks()
        begun = time.monotonic()
        caller.process.kill()
        while any(state_of(pid) not in "XZ" for pid in caller.noted()):
            pass
        took = time.monotonic() - begun
        caller.close()
    return took


def ask(start_method: str, nprocs: int) -> Iterator[Measure]:
    """Provide a function that measures one `dump_stacks` of sleeping ranks."""
    with start_processes(rest, nprocs=nprocs, join=False, start_method=start_method) as context:
        time.sleep(0.5)
        yield clock(context.dump_stacks)


def rest(rank: int) -> None:
    """Sleep."""
    time.sleep(60)


def migrate() -> float:
    """Return the time of the first move of a process into a new cgroup after a pause.

    Soon after another move the kernel takes far less, because it is still prepared.
    """
    time.sleep(0.5)
    path = cgroups.create(1 << 61)
    with subprocess.Popen(["sleep", "60"]) as process:
        took = clock(lambda: cgroups.join(path, process.pid))()
        process.kill()
    cgroups.remove(path)
    return took


def report(what: str, measure: Measure, repetitions: int) -> None:
    """Print one row."""
    measure()
    times = [measure() for _ in range(repetitions)]
    unit, factor = ("us", 1e6) if statistics.median(times) < 1e-3 else ("ms", 1e3)
    shown = (statistics.median(times), min(times), max(times))
    print(f"{what:62}", *(f"{one * factor:8.1f} {unit}" for one in shown), flush=True)


def main() -> None:
    """Print all rows."""
    print(f"{'':62} {'median':>11} {'least':>11} {'largest':>11}")
    report("a rank arms its guard", clock(arm), 1000)
    report("a rank carries the mark", clock(lambda: marks.put(0, 1 << 61)), 1000)
    report("a rank offers its stacks", clock(stacks.offer), 1000)
    report("the fork check", clock(lambda: fork_check.check_fork("error")), 1000)
    report("the reaper is told of a launch and its end", clock(tell_reaper), 1000)
    report("the reaper is started (once a caller)", start_reaper, 10)
    processes = sum(name.isdigit() for name in os.listdir("/proc"))
    report(f"a scan for what is left, {processes} processes", clock(scan), 200)
    for method in ("fork", "spawn", "forkserver"):
        report(f"{method}: raise to the caller's exception, 8 ranks", partial(detect, method), 7)
    for method in ("fork", "spawn", "forkserver"):
        report(
            f"{method}: caller killed to all gone, in sessions too", partial(kill_caller, method), 7
        )
    for measure in ask("fork", 8):
        report("fork: the stacks of 8 ranks", measure, 20)
    os.environ["PROCESSION_CGROUP"] = "1"
    try:
        report("a process is moved into a new cgroup", migrate, 10)
    except RuntimeError as error:
        print(f"a process is moved into a new cgroup: {error}")
    print(f"memory of the reaper (PSS): {weigh_reaper()}")


if __name__ == "__main__":
    main()
