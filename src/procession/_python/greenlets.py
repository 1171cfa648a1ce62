"""What a launch does differently in a process that runs greenlets: gevent's or eventlet's.

A wait switches to other greenlets, exit codes come from gevent where it reaps children, and a forked rank
has none of its caller's greenlets.  This module is not imported where neither library is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.fd_numbers import above_streams

_FAULTS = {"SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"}  # which faulthandler handles

# the hub and loop of the process that forked this one: freeing them would run its greenlets
_kept: list[object] = []


def switch_until_readable(fd: int, seconds: float | None, *, is_kept: bool = False) -> bool:
    """Let other greenlets run until a descriptor is readable, or for so many seconds.

    With ``is_kept`` the descriptor stays open meanwhile, and gevent may wait for it as it is.  Returns False
    at once where no other greenlet can run: in a thread without a hub, and in the hub itself.
    """
    hub = _find_hub()
    if hub is None or sys.modules["greenlet"].getcurrent() is hub:
        return False
    process = os.getpid()
    select: Any = sys.modules["select"]
    has_poll = hasattr(select, "poll")  # eventlet's has none
    with nullcontext(fd) if is_kept and has_poll else _duplicated(fd) as own:
        if has_poll:
            poller = select.poll()
            poller.register(own, select.POLLIN)
            poller.poll(None if seconds is None else seconds * 1000)
        else:
            select.select([own], [], [], seconds)
        while os.getpid() != process:  # a copy, in a forked child, which has no ranks
            hub.switch()
    return True


@contextmanager
def _duplicated(fd: int) -> Iterator[int]:
    """Provide a duplicate of a descriptor: eventlet takes one reader for each number.

    Forked children keep it: libev aborts if a descriptor that it waits for has been closed.
    """
    own = above_streams(os.dup(fd))
    try:
        yield own
    finally:
        unpatched.close(own)


def acquire(lock: Any, seconds: float) -> bool:
    """Acquire a lock that a thread may hold for long (-1: wait for ever), while other greenlets run."""
    import time

    if _find_hub() is None:
        return bool(lock.acquire(timeout=seconds))
    until = float("inf") if seconds < 0 else monotonic() + seconds
    while not lock.acquire(blocking=False):
        if monotonic() >= until:
            return False
        time.sleep(0.005)
    return True


class ChildWatch:
    """Keeps the wait status of a child if gevent reaps it: once gevent watches one child, it reaps all."""

    def __init__(self, hub: Any, pid: int) -> None:
        self._hub = hub
        self._pid = pid
        self._watcher = hub.loop.child(pid, ref=False)
        self._watcher.start(lambda: None)

    @property
    def status(self) -> int | None:
        """The wait status; None if gevent has not reaped the child."""
        return self._watcher.rstatus if self._watcher.rpid == self._pid else None

    def close(self) -> None:
        """Stop watching; any thread may call this."""
        if _find_hub() is self._hub:
            self._watcher.close()
        else:
            self._hub.loop.run_callback_threadsafe(self._watcher.close)


def watch_child(pid: int) -> ChildWatch | None:
    """Return a watch for a child's end; None without gevent, and in threads other than the main one."""
    hub = _get_gevent_hub()
    return ChildWatch(hub, pid) if hub is not None and hub.loop.default else None


def forget_hubs() -> None:
    """Leave the greenlets of the process that forked this one to it; this process gets a new event loop."""
    gevent: Any = sys.modules.get("gevent._hub_local")
    hub = gevent.get_hub_if_exists() if gevent is not None else None
    if hub is not None:
        _forget_gevent_hub(gevent, hub)
    eventlet: Any = getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None)
    if hasattr(eventlet, "hub"):
        _kept.append(eventlet.hub)
        del eventlet.hub


def _forget_gevent_hub(local: Any, hub: Any) -> None:
    loop = hub.loop
    if type(loop).__module__ != "gevent.libev.corecext":  # not known to be safe for other loops
        sys.modules["gevent"].reinit()
        return
    _take_back_signals()
    _kept.extend((hub, loop))
    local.set_hub(None)
    local.set_loop(None)
    loop.destroy()
    threading: Any = sys.modules.get("threading")
    monkey: Any = sys.modules.get("gevent.monkey")
    if sys.version_info < (3, 13) and monkey is not None and threading is not None:
        # gevent's does nothing if the main greenlet is the caller's
        threading._shutdown = monkey.get_original("threading", "_shutdown")


def _take_back_signals() -> None:
    """Give signals that the event loop handles back to Python's handlers: the loop is about to go."""
    import signal

    with open("/proc/self/status", encoding="ascii") as file:
        caught = next((int(line.split()[1], 16) for line in file if line.startswith("SigCgt")), 0)
    for number in signal.valid_signals():
        name = number.name if isinstance(number, signal.Signals) else ""
        if caught >> (number - 1) & 1 and name not in _FAULTS:
            handler = signal.getsignal(number)
            signal.signal(number, handler if callable(handler) else signal.SIG_DFL)


def _find_hub() -> Any:
    """Return the greenlet that runs this thread's event loop; None if there is none."""
    gevent: Any = sys.modules.get("gevent._hub_local")
    hub = gevent.get_hub_if_exists() if gevent is not None else None
    if hub is not None:
        return hub
    eventlet: Any = getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None)
    return getattr(getattr(eventlet, "hub", None), "greenlet", None)


def _get_gevent_hub() -> Any:
    """Return this thread's gevent hub; create it in the main thread if `os` is patched."""
    gevent: Any = sys.modules.get("gevent._hub_local")
    if gevent is None:
        return None
    hub = gevent.get_hub_if_exists()
    patched = getattr(os.fork, "__module__", "") == "gevent.os"
    is_main = sys.modules["_thread"].get_native_id() == os.getpid()
    return gevent.get_hub() if hub is None and patched and is_main else hub
