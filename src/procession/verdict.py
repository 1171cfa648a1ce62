"""Finds the root cause among the failures of a launch, and makes the exception that tells it."""

from __future__ import annotations

from collections.abc import Sequence

from procession.exceptions import (
    Failure,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    ProcessTimeoutError,
)


def sort_failures(failures: Sequence[Failure]) -> list[Failure]:
    """Put the root cause first, then the others in the order of the ranks' own clocks.

    The root cause is a hard death (signal, exit without a report, contact lost) rather than an
    exception, which may be a peer's reaction to it; an exception rather than SIGABRT, with which
    libraries react to a lost peer; the earliest of its kind; and never a rank that we stopped.
    """
    ordered = sorted(failures, key=lambda failure: (failure.collateral, failure.time))
    if ordered:
        root = min(ordered, key=_suspicion)
        ordered.remove(root)
        ordered.insert(0, root)
    return ordered


def _suspicion(failure: Failure) -> tuple[bool, int, int]:
    if failure.signal_name in ("SIGABRT", "SIGIOT"):
        kind = 2
    elif failure.kind == "raised":
        kind = 1
    else:
        kind = 0
    return failure.collateral, kind, failure.time


def make_exception(failures: Sequence[Failure]) -> ProcessException:
    """Return the exception for failures that `sort_failures` has put in order."""
    root = failures[0]
    error = _torch_exception(root, failures)
    for note in _notes(root, failures[1:]):
        error.add_note(note)
    return error


def make_timeout(
    seconds: float, running: Sequence[int], failures: Sequence[Failure]
) -> ProcessException:
    """Return the exception for a launch whose deadline passed while ``running`` ranks ran."""
    ranks = ", ".join(map(str, running))
    first = next((failure for failure in failures if failure.rank in running), None)
    return ProcessTimeoutError(
        f"the launch did not end within {seconds:g} s: stopped rank {ranks}",
        running[0] if running else 0,
        first.pid if first else None,
        failures=failures,
    )


def _torch_exception(root: Failure, failures: Sequence[Failure]) -> ProcessException:
    rank, pid = root.rank, root.pid
    if root.kind == "raised":
        message = f"\n\n-- Process {rank:d} terminated with the following error:\n{root.traceback}"
        return ProcessRaisedException(message, rank, pid, failures=failures, host=root.host)
    if root.kind == "lost":
        ending = f"was lost: {root.message}"
    elif root.signal_name:
        ending = f"terminated with signal {root.signal_name}"
    else:
        ending = f"terminated with exit code {root.exit_code:d}"
    return ProcessExitedException(
        f"process {rank:d} {ending}",
        rank,
        pid,
        root.exit_code,
        root.signal_name,
        failures=failures,
        host=root.host,
    )


def _notes(root: Failure, others: Sequence[Failure]) -> list[str]:
    notes = []
    if root.kind == "exited" and root.message:
        notes.append(f"process {root.rank} ended so: {root.message}")
    if root.evidence:
        notes.append(root.evidence)
    own = [failure for failure in others if not failure.collateral]
    if own:
        notes.append("other ranks that failed:\n" + "\n".join(f"  {one}" for one in own))
    stopped = sorted(failure.rank for failure in others if failure.collateral)
    if stopped:
        notes.append(
            f"stopped by the launcher, in consequence: rank {', '.join(map(str, stopped))}"
        )
    notes += [f"rank {one.rank}: {one.message}" for one in others if one.kind == "lost"]
    return notes
