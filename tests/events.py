"""Wait for events that ranks set, and fail with the failure of a rank if they no longer can."""

from __future__ import annotations

from typing import Any

from procession import ProcessContext


def await_event(context: ProcessContext, event: Any) -> None:
    """Wait until a rank has set a `multiprocessing.Event`; raise as the launch does if it fails first."""
    while not event.wait(0.1):
        assert not context.wait(timeout=0), "all ranks have ended without setting it"
