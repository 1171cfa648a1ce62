"""Starts a launch: finds its start method, checks its arguments, has a context stand over its ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procession import oom
from procession.built_in import get_built_in
from procession.checks import check_launch
from procession.starting import undo

if TYPE_CHECKING:
    from procession.context import ProcessContext
    from procession.protocol import Backend


def start(start_method: str | Backend | None, **arguments: Any) -> ProcessContext:
    """Start the ranks of one call; see `procession.api.start_processes` for arguments and errors."""
    backend = get_built_in(start_method) or resolve(start_method)
    launch = check_launch(backend, **arguments)
    if backend.capabilities.by_reference:  # they are forked, and begin at once
        import_context()
    kills = oom.count_kills()
    started = backend.start(launch)
    try:
        return import_context()(launch, started, kills)
    except BaseException:  # an interrupt: nobody would have the ranks
        undo(started)
        raise


def resolve(start_method: str | Backend | None) -> Backend:
    """Ask the registry for a backend."""
    from procession.registry import get_backend

    return get_backend(start_method)


def import_context() -> type[ProcessContext]:
    """Import what stands over ranks; those that are interpreters of their own come up meanwhile."""
    from procession.context import ProcessContext

    return ProcessContext
