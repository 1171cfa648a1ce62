"""Waits for a gang's next event in an asyncio event loop, without a thread."""

from __future__ import annotations

import asyncio
import os
import time

from procession.gang import Gang

_RECHECK = 0.05
"""Seconds between looks where events cannot be waited for here (Windows, or a thread is waiting)."""


async def wait_for_event(gang: Gang) -> None:
    """Return when the gang has something to do: an event, or a deadline."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    fd = gang.waiter.fileno()
    pause = gang.next_deadline() - time.monotonic()
    if fd is None or gang.is_waited_for():
        await asyncio.sleep(max(0, min(pause, _RECHECK)))
        return
    own = os.dup(fd)  # several tasks may wait: a loop keeps one reader a descriptor
    timer = loop.call_later(max(pause, 0), wake) if pause != float("inf") else None
    loop.add_reader(own, wake)
    try:
        await woken
    finally:
        loop.remove_reader(own)
        os.close(own)
        if timer is not None:
            timer.cancel()
