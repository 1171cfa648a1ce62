"""Holds Ctrl-C back while a rank is being started, so that none is started and then forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

signal: Any = __import__("_signal")  # without the enums of `signal`, which would cost a forked rank

_original: Callable[[int, FrameType | None], Any] | None = None


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Run the block without KeyboardInterrupt; an interrupt that came meanwhile is raised after it.

    The block is given a function that lets one through where it is called.
    """
    global _original
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None  # only the main thread is interrupted, and only by a handler
        return
    came: list[FrameType | None] = []
    _original = handler
    signal.signal(signal.SIGINT, lambda _, frame: came.append(frame))

    def let_through() -> None:
        if came:
            handler(signal.SIGINT, came.pop())

    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, handler)
        _original = None
    let_through()


def forget_in_child(*, restore: bool) -> None:
    """Forget, in a process that was forked meanwhile, that they are held back; restore the handler."""
    global _original
    if _original is not None:
        if restore:
            signal.signal(signal.SIGINT, _original)
        _original = None
