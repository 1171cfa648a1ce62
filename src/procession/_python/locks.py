"""Waits that end by a deadline: for a lock, for a descriptor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from procession._python import unpatched

LONGEST = 86_400.0
"""Seconds for which one system call waits at most: poll(2) takes 24 days."""


def owns(lock: Any) -> bool:
    """Whether this thread holds an `threading.RLock`: then this call may come from a signal handler."""
    return bool(lock._is_owned())


@contextmanager
def held(lock: Any, until: float) -> Iterator[None]:
    """Hold a lock in the block.

    Raises:
        TimeoutError: another thread still holds it at ``until`` (`time.monotonic`).
    """
    while not lock.acquire(timeout=_patience(until)):
        if time.monotonic() >= until:
            raise TimeoutError("another thread holds the lock")
    try:
        yield
    finally:
        lock.release()


def await_readable(item: Any, until: float) -> None:
    """Wait until a descriptor, or what has one, is readable.

    Raises:
        TimeoutError: it is not at ``until`` (`time.monotonic`).
    """
    poll = unpatched.poll()
    poll.register(item, unpatched.POLLIN)
    while not poll.poll(_patience(until) * 1000):
        if time.monotonic() >= until:
            raise TimeoutError("there is nothing to read")


def _patience(until: float) -> float:
    return min(max(until - time.monotonic(), 0), LONGEST)
