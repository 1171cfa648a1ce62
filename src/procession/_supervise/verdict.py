"""Finds the root cause among the failures of a launch, and makes the exception that tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from procession._supervise.stack_dump import group_stacks
from procession.exceptions import (
    ProcessException,
    ProcessTimeoutError,
)
from procession.failure import Failure

ABORTED = frozenset({"SIGABRT", "SIGIOT"})
"""The signal by which libraries end a process that has lost a peer, by both its names."""


STACK_LINES = 24
"""Lines of a stack that a message shows at most."""


def sort_failures(failures: Sequence[Failure]) -> list[Failure]:
    """Put the root cause first, then the others in the order of the ranks' own clocks.

    The root cause is a hard death (signal, exit without a report, contact lost) rather than an
    exception or a `sys.exit`, which may be a peer's reaction to it; these rather than SIGABRT, with which
    libraries react to a lost peer; the earliest of its kind; and never a rank that we stopped.
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
    """Return the exception for a launch whose deadline passed while ``running`` ranks ran, and where."""
    ranks = ", ".join(map(str, running))
    first = next((failure for failure in failures if failure.rank in running), None)
    message = f"the launch did not end within {seconds:g} s: stopped rank {ranks}"
    if stacks:
        told = map(_shorten, group_stacks(stacks))
        message = "\n".join([message, "where the ranks were when it passed:", *told])
    return ProcessTimeoutError(
        message,
        running[0] if running else 0,
        first.pid if first else None,
        failures=failures,
    )


def _shorten(stack: str) -> str:
    """Return the ends of a stack: the whole is in the failure of its rank."""
    lines = stack.splitlines()
    left_out = len(lines) - STACK_LINES
    if left_out <= 1:
        return stack
    half = STACK_LINES // 2
    told = f"  [... {left_out} lines left out: see failures[...].stacks ...]"
    return "\n".join([*lines[:half], told, *lines[-half:]])
