"""Cuts a forked rank off from what it copied: its parent's exit handlers, finalizers, executors and streams.

Besides os, sys and `report`, it imports modules only where it needs them.
"""

from __future__ import annotations

import os
import sys

from procession._rank import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO


_NEEDED = [
    "_pickle",
    "atexit",
    "faulthandler",
    "fcntl",
    "marshal",
    "signal",
    "procession._linux.memory",
    "procession._rank.small_pickle",
    "socket",
    "traceback",
    "ast",
]


def import_for_ranks(*modules: str) -> None:
    """Import, before ranks are forked, what each rank would otherwise import for itself."""
    for name in filter(None, modules):
        __import__(name)
    for name in _NEEDED:
        try:
            __import__(name)
        except ImportError:  # this build of Python has no such module
            pass
    if "multiprocessing.context" in sys.modules:
        __import__("multiprocessing.util")
    report.reserve_memory()


_kept: list[object] = []


def open_no_input() -> TextIO | None:
    """Return a text file that ranks use as standard input; None if this process has no standard input.

    It reads descriptor 0, which is the caller's until `cut_off` replaces it.
    """
    try:
        return open(0, encoding="utf-8", closefd=False) if sys.stdin is not None else None
    except (OSError, ValueError):
        return None


def cut_off(no_input: TextIO | None) -> None:
    """Leave exit handlers, executors, greenlets and standard input to the parent."""
    _forget_exit_handlers()
    _forget_executors()
    _forget_greenlets()
    if no_input is not None:
        _replace_stdin(no_input)


def _forget_exit_handlers() -> None:
    import atexit

    atexit._clear()
    weakref = sys.modules.get("weakref")
    if weakref is not None:  # it registers its exit handler only once, and that is now cleared
        finalize: Any = weakref.finalize
        _kept.append(finalize._registry)  # freeing it would touch all of it, and end what it holds
        finalize._registry = {}
        finalize._registered_with_atexit = False
    if "multiprocessing.util" in sys.modules:
        atexit.register(_end_multiprocessing)


def _end_multiprocessing() -> None:
    """Do what multiprocessing does when a process ends, if there is anything to do."""
    util, process = sys.modules["multiprocessing.util"], sys.modules["multiprocessing.process"]
    if util._finalizer_registry or process._children or util._logger is not None:
        util._exit_function()


def _forget_executors() -> None:
    """Forget worker threads: a fork does not copy them, and one of them may have forked this process."""
    threads = sys.modules.get("concurrent.futures.thread")
    if threads is not None:
        threads._threads_queues.clear()


def _forget_greenlets() -> None:
    """Forget the copied greenlets, except the one that forked this process."""
    if "gevent.hub" in sys.modules or "eventlet.hubs" in sys.modules:
        from procession._python.greenlets import forget_hubs

        forget_hubs()


def _replace_stdin(no_input: TextIO) -> None:
    """Point standard input at the null device, as multiprocessing does."""
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    except OSError:
        pass
    sys.stdin = no_input
