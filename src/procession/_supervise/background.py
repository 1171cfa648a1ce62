"""Supervises a launch that nobody waits for, in a daemon thread of the caller (``supervise=True``)."""

from __future__ import annotations

import os
import threading
import time

from procession._python import unpatched
from procession._supervise import launches
from procession._supervise.supervisor import Supervisor

_LONGEST_WAIT = (
    1.0  # seconds: another thread may see the launch to its end between a look and the wait
)
_CONTENDED = 0.01  # seconds to leave a launch to another thread that is at it
_FORK_PATIENCE = 3.0  # seconds that a fork waits for a step to end

_PARKED = unpatched.RLock()
"""Held during each step, and by whoever forks: no lock of ours is then held in the copy by a thread that
the copy does not have.  Nothing is held while a thread waits."""

_parked = False  # whether a fork under way has the lock
_watching = False  # whether forks wait for it


def supervise(supervisor: Supervisor) -> None:
    """Start a thread that supervises a launch until it has finished."""
    _watch_forks()
    name = f"procession supervises {supervisor.launch.start_method}"
    threading.Thread(target=_supervise, args=(supervisor,), name=name, daemon=True).start()


def _supervise(supervisor: Supervisor) -> None:
    own = supervisor.waiter.duplicate()
    if own is None:  # it has finished, or this is Windows, where nothing forks
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
        pause = min(max(supervisor.next_deadline() - time.monotonic(), 0), _LONGEST_WAIT)
        unpatched.wait_readable(fd, pause)
        with _PARKED:
            stepped = supervisor.try_step()
            if supervisor.failed:
                launches.log_failure(supervisor)
        if not stepped:
            unpatched.sleep(_CONTENDED)


def _watch_forks() -> None:
    """Have forks wait for steps to end, from the first use on."""
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
