"""Waits for a gang's next event in an asyncio event loop, without a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procession._python import unpatched
from procession._supervise.supervisor import Supervisor

_LONGEST_WAIT = 86_400.0  # seconds: event loops refuse far longer ones
_RECHECK = 0.05
"""Seconds between looks where events cannot be waited for without a thread (Windows)."""


async def wait_for_event(supervisor: Supervisor) -> None:
    """Return when the gang has something to do: an event, a deadline, or what another waiter did."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def wake_from_anywhere() -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    supervisor.watch(wake_from_anywhere)
    try:
        pause = max(supervisor.next_deadline() - time.monotonic(), 0)
        with _reader(supervisor, loop, wake) as can_tell:
            pause = pause if can_tell else min(pause, _RECHECK)
            if not supervisor.finished:
                await asyncio.wait([woken], timeout=min(pause, _LONGEST_WAIT))
    finally:
        supervisor.unwatch(wake_from_anywhere)


@contextmanager
def _reader(
    supervisor: Supervisor, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]
) -> Iterator[bool]:
    """Have the loop call a function on the gang's events; tell whether it can."""
    own = (
        supervisor.waiter.duplicate()
    )  # several tasks may wait: a loop keeps one reader a descriptor
    if own is None:
        yield False
        return
    loop.add_reader(own, wake)
    try:
        yield True
    finally:
        loop.remove_reader(own)
        unpatched.close(own)
