"""Starts a launch: finds its start method, checks its arguments, has a context stand over its ranks."""

from __future__ import annotations

from typing import Any

from procession import oom
from procession.checks import check_launch
from procession.context import ProcessContext
from procession.protocol import Backend
from procession.registry import get_backend
from procession.starting import undo


def start(start_method: str | Backend | None, **arguments: Any) -> ProcessContext:
    """Start the ranks of one call; see `procession.api.start_processes` for arguments and errors."""
    backend = get_backend(start_method)
    launch = check_launch(backend, **arguments)
    kills = oom.count_kills()
    started = backend.start(launch)
    try:
        return ProcessContext(launch, started, kills)
    except BaseException:  # an interrupt: nobody would have the ranks
        undo(started)
        raise
