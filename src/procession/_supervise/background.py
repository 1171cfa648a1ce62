"""Supervises a launch in a daemon thread of the caller (``supervise=True``)."""

from __future__ import annotations

import os
import threading

from procession._python import unpatched
from procession._python.clock import monotonic
from procession._supervise import launches
from procession._supervise.supervisor import Supervisor

_LONGEST_WAIT = 1.0  # seconds: another thread may finish the launch just before this one waits
_CONTENDED = 0.01  # seconds to let another thread finish its step
_FORK_PATIENCE = 3.0  # seconds that a fork waits for a step to end

_PARKED = unpatched.RLock()
"""Held during each step of this thread, and during each fork.

A fork copies locks but only one thread: a lock that another thread holds would stay locked in the copy for
ever.  The thread does not hold it while it waits for events.
"""

_parked = False  # whether a fork under way holds the lock
_watching = False  # whether forks take the lock


def supervise(supervisor: Supervisor) -> None:
    """Start a thread that supervises a launch until it has finished."""
    _watch_forks()
    name = f"procession supervises {supervisor.launch.start_method}"
    threading.Thread(target=_supervise, args=(supervisor,), name=name, daemon=True).start()


def _supervise(supervisor: Supervisor) -> None:
    own = supervisor.waiter.duplicate()
    if own is None:  # finished already, or Windows, which has no forks
        supervisor.run()
    else:
        try:
            _step_until_finished(supervisor, own)
        finally:
            unpatched.close(own)
    if launches.has_failed(supervisor):
        launches.log_failure(supervisor)


def _step_until_finished(supervisor: Supervisor, fd: int) -> None:
    while not supervisor.finished:
        pause = min(max(supervisor.next_deadline() - monotonic(), 0), _LONGEST_WAIT)
        unpatched.wait_readable(fd, pause)
        with _PARKED:
            stepped = supervisor.try_step()
            if launches.has_failed(supervisor):
                launches.log_failure(supervisor)
        if not stepped:
            unpatched.sleep(_CONTENDED)


def _watch_forks() -> None:
    """Make forks wait until steps have ended; registers once."""
    global _watching
    if not _watching and hasattr(os, "register_at_fork"):
        _watching = True
        os.register_at_fork(before=_park, after_in_parent=_unpark, after_in_child=_forget)


def _park() -> None:
    global _parked
    _parked = _PARKED.acquire(timeout=_FORK_PATIENCE)


def _unpark() -> None:
    global _parked
    if _parked:
        _parked = False
        _PARKED.release()


def _forget() -> None:
    global _PARKED, _parked
    _PARKED, _parked = unpatched.RLock(), False
