"""Waits for the next event of a launch in an asyncio event loop, without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.deadlines import LONGEST
from procession._supervise.supervisor import Supervisor

_RECHECK = 0.05
"""Seconds between looks where the loop cannot wait for events without a thread (Windows)."""


async def wait_for_event(supervisor: Supervisor) -> None:
    """Return at the next event or deadline, or when another thread has stepped."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def wake_from_anywhere() -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop is closed, so nothing waits in it
            pass

    supervisor.watch(wake_from_anywhere)
    try:
        pause = max(supervisor.next_deadline() - monotonic(), 0)
        with _reader(supervisor, loop, wake) as has_reader:
            pause = pause if has_reader else min(pause, _RECHECK)
            if not supervisor.finished:
                await asyncio.wait([woken], timeout=min(pause, LONGEST))
    finally:
        supervisor.unwatch(wake_from_anywhere)


@contextmanager
def _reader(
    supervisor: Supervisor, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]
) -> Iterator[bool]:
    """Make the loop call a function when an event is ready; yield whether it can."""
    # a duplicate for each task that waits: a loop has one reader per descriptor
    try:
        own = supervisor.waiter.duplicate()
    except OSError:  # no descriptor is free
        own = None
    if own is None:
        yield False
        return
    loop.add_reader(own, wake)
    try:
        yield True
    finally:
        loop.remove_reader(own)
        unpatched.close(own)
