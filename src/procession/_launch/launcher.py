"""Starts a launch: checks its arguments, starts its ranks and makes the context that supervises them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procession._launch.checks import check_launch
from procession._launch.starting import abort_start
from procession._python.clock import monotonic
from procession._python.defer_signals import (
    aborted_by_endings,
    defer_sigint,
    deferred_endings,
    until_context,
)
from procession._python.imported import get_if_imported
from procession._python.log import debug
from procession._supervise import oom

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from procession.context import ProcessContext
    from procession.protocol import Backend, Launch, Started

    T = TypeVar("T")


def complete(
    backend: Backend,
    conclude: Callable[[ProcessContext], T],
    **arguments: Any,
) -> T:
    """Start the ranks of one call, and return ``conclude(context)``; the context ends before this returns."""
    launch = check_launch(backend, **arguments)
    made: list[ProcessContext] = []
    try:
        with deferred_endings(*launch.signals.forward):
            begin(backend, launch, made)
            with made[0] as context:
                return conclude(context)
    except BaseException as error:
        _end(made, error)
        raise


def start(backend: Backend, **arguments: Any) -> ProcessContext:
    """Start the ranks of one call, and return their context.

    See `procession.api.start_processes` for arguments and errors.
    """
    launch = check_launch(backend, **arguments)
    made: list[ProcessContext] = []
    try:
        with deferred_endings(*launch.signals.forward) as have_come:
            begin(backend, launch, made)
            if have_come():
                made[0].pass_on_deferred()
        return made[0]
    except BaseException as error:
        _end(made, error)
        raise


def _end(made: list[ProcessContext], error: BaseException) -> None:
    """End the ranks of a context that cannot be returned; forward a KeyboardInterrupt to them."""
    for context in made:
        if isinstance(error, KeyboardInterrupt):
            context.interrupt()
        else:
            context.terminate()


def begin(backend: Backend, launch: Launch, made: list[ProcessContext]) -> None:
    """Start the ranks of a launch, and append their context to ``made``.

    From then on the caller, which passed the list, owns the context, even if this function raises.
    """
    look_after_forgotten = get_if_imported("procession._supervise.launches", "look_after_forgotten")
    if look_after_forgotten is not None:
        look_after_forgotten()
    kills, begun = oom.count_kills(), monotonic()
    with until_context():
        started = _start(backend, launch)
        debug("%s: started %d ranks by %s", launch.name, launch.nprocs, launch.start_method)
        supervise(launch, started, kills, made)
        if not backend.capabilities.remote:  # an engine may keep ranks waiting in its queue
            made[0]._supervisor.extend(begun - monotonic())


def _start(backend: Backend, launch: Launch) -> Started:
    if not backend.capabilities.remote:
        return backend.start(launch)
    with aborted_by_endings():  # no rank begins before all can
        return backend.start(launch)


def supervise(
    launch: Launch, started: Started, kills: dict[str, int], made: list[ProcessContext]
) -> None:
    """Make the context of ranks that were started; if that fails, end the ranks.

    Its module is imported here, while the ranks start up.
    """
    try:
        with defer_sigint(until_owned=True):
            from procession.context import ProcessContext

            made.append(ProcessContext._of_launch(launch, started, kills))
    except BaseException:
        if not made:
            abort_start(started)
        raise
