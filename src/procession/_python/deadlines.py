"""Waits that end at a deadline: for a lock, for a descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from procession._python import unpatched
from procession._python.clock import monotonic

LONGEST = 86_400.0
"""Longest wait of one system call, in seconds; poll(2) takes at most 24 days."""


def seconds_until(until: float) -> float:
    """Return how long to wait for a time (`time.monotonic`): 0 once it has passed, `LONGEST` at most."""
    return min(max(until - monotonic(), 0), LONGEST)


def owns(lock: Any) -> bool:
    """Return whether this thread holds a `threading.RLock`: this call may then come from a signal handler."""
    return bool(lock._is_owned())


@contextmanager
def held(lock: Any, until: float) -> Iterator[None]:
    """Hold a lock in the block.

    Raises:
        TimeoutError: another thread still holds it at ``until`` (`time.monotonic`).
    """
    while not lock.acquire(timeout=seconds_until(until)):
        if monotonic() >= until:
            raise TimeoutError("another thread holds the lock")
    try:
        yield
    finally:
        lock.release()


def await_readable(item: Any, until: float) -> None:
    """Wait until a descriptor, or an object that has one, is readable.

    Raises:
        TimeoutError: it is not at ``until`` (`time.monotonic`).
    """
    poll = unpatched.poll()
    poll.register(item, unpatched.POLLIN)
    while not poll.poll(seconds_until(until) * 1000):
        if monotonic() >= until:
            raise TimeoutError("there is nothing to read")
