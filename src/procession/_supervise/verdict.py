"""Finds the root cause among the failures of a launch, and makes the exception of a timeout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from procession._supervise.stack_dump import group_stacks
from procession.exceptions import ProcessException, ProcessTimeoutError
from procession.failure import Failure

ABORTED = frozenset({"SIGABRT", "SIGIOT"})
"""Both names of the signal with which libraries abort a process that has lost a peer."""

STACK_LINES = 24
"""The most lines of one stack that a message shows."""


def sort_failures(failures: Sequence[Failure]) -> list[Failure]:
    """Sort failures: the root cause first, then the others by time, ranks that we stopped last.

    A hard death (signal, exit without a report, contact lost) comes before an exception or a `sys.exit`,
    which may be a peer's reaction to it.  Both come before SIGABRT, with which libraries react to a lost
    peer.  Among equals the earliest is the root cause.  A rank that we stopped never is, unless all were.
    """
    ordered = sorted(failures, key=lambda failure: (failure.collateral, failure.time))
    if ordered:
        root = min(ordered, key=_suspicion)
        ordered.remove(root)
        ordered.insert(0, root)
    return ordered


def _suspicion(failure: Failure) -> tuple[bool, int, int]:
    if failure.signal_name in ABORTED:
        kind = 2
    elif failure.kind == "raised" or failure.reported:
        kind = 1
    else:
        kind = 0
    return failure.collateral, kind, failure.time


def make_timeout(
    seconds: float,
    running: Sequence[int],
    failures: Sequence[Failure],
    stacks: Mapping[int, str],
) -> ProcessException:
    """Return the exception for a passed deadline, with the ranks that still ran and their ``stacks``."""
    ranks = ", ".join(map(str, running))
    first = next((failure for failure in failures if failure.rank in running), None)
    message = f"the launch did not end within {seconds:g} s: stopped rank {ranks}"
    if stacks:
        shown = map(_shorten, group_stacks(stacks))
        message = "\n".join([message, "where the ranks were when it passed:", *shown])
    return ProcessTimeoutError(
        message,
        running[0] if running else 0,
        first.pid if first else None,
        failures=failures,
    )


def _shorten(stack: str) -> str:
    """Return the first and last lines of a stack; the failure of the rank holds the whole."""
    lines = stack.splitlines()
    left_out = len(lines) - STACK_LINES
    if left_out <= 1:
        return stack
    half = STACK_LINES // 2
    gap = f"  [... {left_out} lines left out: see failures[...].stacks ...]"
    return "\n".join([*lines[:half], gap, *lines[-half:]])
