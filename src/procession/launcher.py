"""Starts a launch: finds its start method, checks its arguments, has a context stand over its ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procession import oom
from procession.built_in import get_built_in
from procession.checks import check_launch
from procession.interrupts import held_back
from procession.starting import undo

if TYPE_CHECKING:
    from procession.context import ProcessContext
    from procession.protocol import Backend, Launch, Started


def start(start_method: str | Backend | None, **arguments: Any) -> ProcessContext:
    """Start the ranks of one call; see `procession.api.start_processes` for arguments and errors."""
    backend = get_built_in(start_method) or resolve(start_method)
    launch = check_launch(backend, **arguments)
    kills = oom.count_kills()
    return stand_over(launch, backend.start(launch), kills)


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
