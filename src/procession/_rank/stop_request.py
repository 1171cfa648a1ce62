"""Tells code in a rank whether the rank was asked to end."""

from __future__ import annotations

import os
from typing import Any

signal: Any = __import__("_signal")  # without the enums of `signal`, which cost ranks time

_requested_in = 0  # the process that received SIGTERM


def stop_requested() -> bool:
    """Return whether this process has received SIGTERM, for code that ends at a moment of its choice.

    A rank gets SIGTERM when its caller is asked to end, when another rank has failed, or when the launch is
    terminated.  The first call installs a handler that sets a flag, if SIGTERM has its default action.  If
    your code has set another handler, this returns False.

    Raises:
        RuntimeError: the first call is not in the main thread, the only one where Python installs handlers.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        try:
            signal.signal(signal.SIGTERM, note)
        except ValueError:
            raise RuntimeError(
                "the first call of stop_requested() must be in the main thread: Python can install a "
                "handler for SIGTERM only there"
            ) from None
    return _requested_in == os.getpid()


def note(*_: object) -> None:
    """Record that this process has received SIGTERM."""
    global _requested_in
    _requested_in = os.getpid()
