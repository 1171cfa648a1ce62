"""Finds the root cause among the failures of a launch, and makes the exception that tells it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from procession._supervise.stack_dump import group_stacks
from procession.exceptions import (
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    ProcessTimeoutError,
    note_on,
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


def make_exception(failures: Sequence[Failure]) -> ProcessException:
    """Return the exception for failures that `sort_failures` has put in order."""
    root = failures[0]
    error = _torch_exception(root, failures)
    for note in _notes(root, failures[1:]):
        error.add_note(note)
    return error


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


def make_group(error: ProcessException, *, load: bool) -> Any:
    """Return the failures of a launch as an ExceptionGroup (a BaseExceptionGroup where one has to be)."""
    chosen = [one for one in error.failures if not one.collateral] or list(error.failures)
    singles = [_make_single(one, load=load) for one in chosen] or [error]
    text = f"{len(singles)} of the launch's ranks failed"
    return _base_group()(text, singles)


def _make_single(failure: Failure, *, load: bool) -> BaseException:
    loaded = failure.load_exception() if load else None
    if loaded is None:
        return make_exception([failure])
    note_on(loaded, f"raised in rank {failure.rank} (pid {failure.pid}):\n{failure.traceback}")
    return loaded


def _base_group() -> Any:
    from importlib import import_module

    module = "builtins" if sys.version_info >= (3, 11) else "exceptiongroup"
    try:
        return import_module(module).BaseExceptionGroup
    except ImportError:
        text = "exception groups came with Python 3.11: pip install exceptiongroup"
        raise RuntimeError(text) from None


def _torch_exception(root: Failure, failures: Sequence[Failure]) -> ProcessException:
    rank, pid = root.rank, root.pid
    if root.kind == "raised":
        message = f"\n\n-- Process {rank:d} terminated with the following error:\n{root.traceback}"
        message += f"host: {root.host}\n" if root.host else ""
        return ProcessRaisedException(message, rank, pid, failures=failures, host=root.host)
    if root.kind == "lost":
        ending = f"was lost: {root.message}"
    elif root.signal_name:
        ending = f"terminated with signal {root.signal_name}"
    else:
        ending = f"terminated with exit code {root.exit_code:d}"
    if root.kind == "exited" and root.message:
        ending += f": {root.message}"
    if root.host:
        ending += f"\nhost: {root.host}"
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
