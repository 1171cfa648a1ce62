"""Keeps the launches of this process that run, or whose failure has not been reported yet.

A launch belongs to the process that started it, not to its `ProcessContext`: if the context is dropped, the
ranks run on, as children of multiprocessing do.  `procession._supervise.at_exit` handles them when the
interpreter exits.  A failure that no `join`, `wait` or `results` has raised is logged.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procession._supervise.supervisor import Supervisor

log: logging.Logger = logging.getLogger("procession")

_contexts: dict[Supervisor, weakref.ref[Any]] = {}
"""Each launch that runs, or whose failure has been neither raised nor logged."""

_owner = 0  # the process whose launches these are; its forks have none


def note(supervisor: Supervisor, context: object) -> None:
    """Register a launch that has just started."""
    global _owner, _contexts
    if _owner != os.getpid():
        _owner, _contexts = os.getpid(), {}
        _register_at_exit()
    _contexts[supervisor] = weakref.ref(context, lambda _: _settle_dropped(supervisor))


def list_running() -> list[Supervisor]:
    """Return this process's launches that have not finished."""
    if _owner != os.getpid():
        return []
    return [supervisor for supervisor in list(_contexts) if not supervisor.finished]


def look_after_forgotten() -> None:
    """Step launches whose contexts are gone, so that their ranks are reaped."""
    if _owner == os.getpid():
        for supervisor, context in list(_contexts.items()):
            if context() is None and not supervisor.finished:
                supervisor.try_step()


def settle(supervisor: Supervisor) -> None:
    """Forget a launch that has finished, unless it failed; log the failure if its context is gone."""
    context = _contexts.get(supervisor)
    if context is None:
        return
    if not has_failed(supervisor):
        _contexts.pop(supervisor, None)
    elif context() is None:
        log_failure(supervisor)


def conclude(supervisor: Supervisor) -> bool:
    """Mark the outcome of a launch as reported; return whether this is the first report."""
    return _contexts.pop(supervisor, None) is not None


def has_failed(supervisor: Supervisor) -> bool:
    """Whether a launch failed by itself, rather than because the caller stopped it."""
    return bool(supervisor.timed_out) or (
        supervisor.failed and not supervisor.failures()[0].collateral
    )


def log_failure(supervisor: Supervisor) -> None:
    """Log why a launch failed, unless that was reported before."""
    if conclude(supervisor):
        name, text = supervisor.launch.name, describe_failure(supervisor)
        log.error("a launch of %s that was not joined failed: %s", name or "processes", text)


def describe_failure(supervisor: Supervisor) -> str:
    """Return the root cause of a launch's failure, with its traceback, as text."""
    failures = supervisor.failures()
    if supervisor.timed_out and (not failures or failures[0].collateral):
        return f"it did not end within {supervisor.launch.timeout:g} s"
    return f"{failures[0]}\n{failures[0].traceback}".rstrip()


def _settle_dropped(supervisor: Supervisor) -> None:
    """Log the failure of a launch that finished before its context was dropped."""
    if supervisor.finished and _owner == os.getpid():
        settle(supervisor)


def list_unanswered() -> list[Supervisor]:
    """Return the launches whose failure has been neither raised nor logged."""
    return [supervisor for supervisor in list(_contexts) if supervisor.finished]


def _register_at_exit() -> None:
    import atexit

    from procession._supervise import at_exit  # noqa: F401  # at the exit an import may fail

    atexit.register(_end_all)
    util: Any = sys.modules.get("multiprocessing.util")
    # multiprocessing's own finalizers end managers: ours runs first; forked children run only finalizers
    if util is not None:
        util.Finalize(None, _end_all, exitpriority=100)


def _end_all() -> None:
    if _owner == os.getpid() and _contexts:
        from procession._supervise.at_exit import end_all

        end_all()
