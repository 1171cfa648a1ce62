"""Tells code in a rank whether it has been asked to end."""

from __future__ import annotations

import os
from typing import Any

signal: Any = __import__("_signal")  # without the enums of `signal`, which would cost a rank

_requested_in = 0  # the process that got SIGTERM


def stop_requested() -> bool:
    """Return whether this process has got SIGTERM, for code that ends at a moment of its own choice.

    A rank gets SIGTERM when its launcher is asked to end, when another rank has failed, or when the
    launch is terminated.  The first call installs a handler that sets a flag, where SIGTERM has its
    default action; with a handler of your own this returns False.

    Raises:
        RuntimeError: the first call is not in the main thread, where Python installs handlers.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        try:
            signal.signal(signal.SIGTERM, note)
        except ValueError:
            raise RuntimeError(
                "stop_requested() must be called in the main thread first: only there can Python "
                "install its handler of SIGTERM"
            ) from None
    return _requested_in == os.getpid()


def note(*_: object) -> None:
    """Note that this process has got SIGTERM."""
    global _requested_in
    _requested_in = os.getpid()
