"""Ends the launches that still run when the process exits: waits for their ranks, and stops daemonic ones.

multiprocessing does the same for its children.  The process supervises the ranks meanwhile and logs failures;
its exit status stays what it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.deadlines import LONGEST
from procession._supervise import forwarding, launches
from procession._supervise.supervisor import Supervisor

_CONTENDED = 0.01  # seconds to let another thread finish its step
_RECHECK = 0.05  # seconds between looks where one wait cannot cover several launches (Windows)


def end_all() -> None:
    """Wait for the ranks of all launches; stop daemonic ones, and all of them on Ctrl-C; log failures."""
    interrupted = _is_interrupted()
    for supervisor in launches.list_running():
        if supervisor.launch.daemon:
            supervisor.stop()
        elif interrupted:  # Ctrl-C came while no thread waited for these ranks
            supervisor.stop(interrupt=True)
    for act in (_interrupt, Supervisor.hurry):
        try:
            _await_all()
            break
        except KeyboardInterrupt:
            for supervisor in launches.list_running():
                act(supervisor)
    else:
        _await_all()
    for supervisor in launches.list_unanswered():
        launches.log_failure(supervisor)


def _is_interrupted() -> bool:
    """Whether this process exits because of an uncaught KeyboardInterrupt."""
    is_script = not hasattr(sys, "ps1")  # an interactive prompt goes on after one
    return is_script and issubclass(getattr(sys, "last_type", None) or object, KeyboardInterrupt)


def _interrupt(supervisor: Supervisor) -> None:
    supervisor.stop(interrupt=True)


def _await_all() -> None:
    """Supervise all launches at once until the last has finished."""
    while running := launches.list_running():
        with forwarding.waiting(running[0]):
            _await_any(running)
            stepped = [supervisor.try_step() for supervisor in running]
            if not all(stepped):  # another thread is in a step
                unpatched.sleep(_CONTENDED)


def _await_any(supervisors: Sequence[Supervisor]) -> None:
    """Wait until one of the launches has an event or a deadline."""
    fds: list[int] = []
    try:
        try:
            duplicates = (supervisor.waiter.duplicate() for supervisor in supervisors)
            fds.extend(fd for fd in duplicates if fd is not None)
        except OSError:  # no descriptor is free
            pass
        if len(fds) < len(supervisors):  # so, or on Windows, or one of them has finished
            supervisors[0].run(monotonic() + _RECHECK)
            return
        poll = unpatched.poll()
        for fd in fds:
            poll.register(fd, unpatched.POLLIN)
        pause = min(supervisor.next_deadline() for supervisor in supervisors) - monotonic()
        poll.poll(min(max(pause, 0), LONGEST) * 1000)
    finally:
        for fd in fds:
            unpatched.close(fd)
