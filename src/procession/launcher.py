"""Starts a launch: finds its start method, checks its arguments, has a context stand over its ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procession import oom
from procession.built_in import get_built_in
from procession.checks import check_launch
from procession.interrupts import aborted_by_endings, deferred_endings, held_back
from procession.loaded import get_loaded
from procession.starting import undo

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from procession.context import ProcessContext
    from procession.protocol import Backend, Launch, Started

    T = TypeVar("T")


def complete(
    start_method: str | Backend | None,
    conclude: Callable[[ProcessContext], T],
    **arguments: Any,
) -> T:
    """Start the ranks of one call, and return what ``conclude`` makes of their context."""
    backend, launch = prepare(start_method, **arguments)
    with deferred_endings(*launch.signals.forward), begin(backend, launch) as context:
        return conclude(context)


def start(start_method: str | Backend | None, **arguments: Any) -> ProcessContext:
    """Start the ranks of one call; see `procession.api.start_processes` for arguments and errors."""
    backend, launch = prepare(start_method, **arguments)
    with deferred_endings(*launch.signals.forward) as have_come:
        context = begin(backend, launch)
        if have_come():
            context.pass_on_deferred()
    return context


def prepare(start_method: str | Backend | None, **arguments: Any) -> tuple[Backend, Launch]:
    """Find the start method of a call, and check the arguments."""
    backend = get_built_in(start_method) or resolve(start_method)
    return backend, check_launch(backend, **arguments)


def begin(backend: Backend, launch: Launch) -> ProcessContext:
    """Start the ranks of a launch."""
    look_after_forgotten = get_loaded("procession.launches", "look_after_forgotten")
    if look_after_forgotten is not None:
        look_after_forgotten()
    kills = oom.count_kills()
    return stand_over(launch, _start(backend, launch), kills)


def _start(backend: Backend, launch: Launch) -> Started:
    if not backend.capabilities.remote:
        return backend.start(launch)
    with aborted_by_endings():  # no rank begins before all can
        return backend.start(launch)


def resolve(start_method: str | Backend | None) -> Backend:
    """Ask the registry for a backend."""
    from procession.registry import get_backend

    return get_backend(start_method)


def stand_over(launch: Launch, started: Started, kills: dict[str, int]) -> ProcessContext:
    """Return the context of ranks that were started; if there is none to return, end them.

    What it takes is imported here, while ranks come up.  They may be inside their function by then, so that
    an interrupt is passed on to them, as it is once they are waited for.
    """
    context = None
    try:
        with held_back():
            from procession.context import ProcessContext

            context = ProcessContext(launch, started, kills)
    except BaseException as error:
        if context is None:
            undo(started)
        elif isinstance(error, KeyboardInterrupt):
            context.interrupt()
        else:
            context.terminate()
        raise
    return context
