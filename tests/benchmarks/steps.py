"""Measure the steps of a forked rank: ``python tests/benchmarks/steps.py``.

A fork shares its parent's memory until one of them writes to it: then the kernel copies the page, in a
page fault.  Most of the cost of a forked rank is page faults, so this script counts them.  It ends ranks at
the beginning of each step in turn; the cost of a step is the difference to the next.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent)]

import work

from procession import start_processes
from procession._cleanup import tree
from procession._python import defer_signals
from procession._rank import identity, life, parent_death, report, stacks
from procession.backends import fork

RANKS = 32
ROUNDS = 7

STEPS: list[tuple[str, Any, str]] = [
    ("the mark", tree.Tree, "adopt"),
    ("Ctrl-C as it was", defer_signals, "restore_in_child"),
    ("exit handlers, event loop, standard input", fork, "cut_off"),
    ("environment", life, "change_environment"),
    ("wait for the caller", life, "may_begin"),
    ("guard against the caller's death", parent_death, "arm"),
    ("channel out of the way", report.Reporter, "lift"),
    ("a process group of its own", life, "lead_group"),
    ("stacks on demand", stacks, "offer"),
    ("multiprocessing's identity", identity, "assume"),
    ("fn and the report", report.Reporter, "returned"),
    ("exit handlers, flushing, exit", life, "leave"),
]


class Cost(NamedTuple):
    """The cost of ranks up to some step."""

    faults: float
    microseconds: float


def measure(owner: Any = None, name: str = "") -> Cost:
    """Return the cost of one of `RANKS` ranks that end where they first call a function."""
    real = getattr(owner, name, None)
    caller, end = os.getpid(), os._exit

    def stop(*arguments: Any, **keywords: Any) -> Any:
        if os.getpid() != caller:
            end(0)
        assert real is not None
        return real(*arguments, **keywords)

    if real is not None:
        setattr(owner, name, stop)
    try:
        launch()
        return statistics_of([cost_of_launch() for _ in range(ROUNDS)])
    finally:
        if real is not None:
            setattr(owner, name, real)


def statistics_of(costs: list[Cost]) -> Cost:
    """Return the medians."""
    faults, microseconds = zip(*costs, strict=True)
    return Cost(statistics.median(faults), statistics.median(microseconds))


def cost_of_launch() -> Cost:
    """Return the cost of a rank of one launch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    launch()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost((after.ru_minflt - before.ru_minflt) / RANKS, seconds / RANKS * 1e6)


def launch() -> None:
    """Start ranks that do nothing."""
    start_processes(work.nothing, nprocs=RANKS, start_method="fork", allow_early_exit=True)


def main() -> None:
    """Print the cost of each step."""
    launch()
    print(f"{'':48} {'faults':>8} {'CPU':>10}")
    steps = ["the fork itself, and all hooks for it", *(what for what, *_ in STEPS)]
    points = [*(measure(owner, name) for _, owner, name in STEPS), measure()]
    before = Cost(0, 0)
    for step, point in zip(steps, points, strict=True):
        show(step, Cost(point.faults - before.faults, point.microseconds - before.microseconds))
        before = point
    show("altogether", before)


def show(what: str, cost: Cost) -> None:
    """Print a row."""
    print(f"{what:48} {cost.faults:8.0f} {cost.microseconds:7.0f} us", flush=True)


if __name__ == "__main__":
    main()
