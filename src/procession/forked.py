"""Cuts a forked rank off from what it copied: handlers, finalizers and streams that are its parent's.

Ranks import this module: what it needs beyond sys it imports when it is needed.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def cut_off() -> None:
    """Leave the parent's exit handlers, event loop, executors and standard input to the parent."""
    _forget_exit_handlers()
    _forget_event_loop()
    _forget_executors()
    _close_stdin()


def _forget_exit_handlers() -> None:
    import atexit

    atexit._clear()
    weakref = sys.modules.get("weakref")
    if weakref is not None:  # it registers its own handler, once, which is now cleared
        finalize: Any = weakref.finalize
        finalize._registry.clear()
        finalize._registered_with_atexit = False
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        atexit.register(util._exit_function)


def _forget_event_loop() -> None:
    """Undo what asyncio did to signals: a rank's would wake its parent's loop, and do nothing here."""
    import signal

    try:
        signal.set_wakeup_fd(-1)
    except ValueError:  # not the main thread
        return
    if "asyncio.unix_events" not in sys.modules:
        return
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        module = getattr(getattr(handler, "func", handler), "__module__", None)
        if module in ("asyncio.unix_events", "asyncio.runners"):
            own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, own)


def _forget_executors() -> None:
    """Forget worker threads that were not copied (and may include the one that forked)."""
    threads = sys.modules.get("concurrent.futures.thread")
    if threads is not None:
        threads._threads_queues.clear()


def _close_stdin() -> None:
    """Point standard input at nothing, as multiprocessing does."""
    if sys.stdin is not None:
        try:
            sys.stdin.close()
            sys.stdin = open(os.open(os.devnull, os.O_RDONLY), encoding="utf-8", closefd=False)
        except (OSError, ValueError):
            pass
