"""Runs srun for a launch, and has it leave Slurm's queue once the launch's caller is gone.

Slurm keeps the job of an srun that was killed while it waited: first in its queue, and then, with all that
it has asked for, until its time limit.  Told by SIGTERM, srun gives it back.  So srun is this process's
child, and both are spared by what kills whatever a caller has started.  Should this process be killed, the
kernel tells srun.

The caller says by SIGTERM that srun is to cancel its job, and by SIGQUIT that there is nothing to wait for.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from procession._cleanup import cgroups, marks
from procession._linux.syscalls import pidfd_open

_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)
_LINGER = 0.3  # seconds for srun to end by itself, when its caller is gone
_TASKS_WAIT = 5.0  # further seconds where its tasks run: they have to end what ranks have started
_CANCEL_WAIT = 2.0  # seconds for it to cancel its job
_MARK_WAIT = 0.2  # seconds for the caller to mark this process as its own
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run a command for a caller; the arguments are the caller's process id, and the command."""
    caller, command = int(sys.argv[1]), sys.argv[2:]
    told = note_signals()
    try:
        gone = pidfd_open(caller)
    except ProcessLookupError:
        return
    if os.getppid() != caller:  # that number is another's by now
        return
    leave_tree(caller)
    srun = start(command)
    stand_by(srun, gone, told)
    end_as(os.waitstatus_to_exitcode(os.waitpid(srun, 0)[1]))


def note_signals() -> int:
    """Return a descriptor from which can be read which signals have told this process to end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    return read


def leave_tree(caller: int) -> None:
    """Be none of those that are killed with a caller, once it has made this process one of them."""
    theirs = marks.read_mark(caller)
    until = time.monotonic() + _MARK_WAIT
    while (mark := marks.read_mark(0)) == theirs and time.monotonic() < until:
        time.sleep(0.001)
    marks.spare(0)
    while os.environ.get("PROCESSION_CGROUP") == "1" and time.monotonic() < until:
        parent, own = os.path.split(os.path.dirname(cgroups.locate(mark or 0)))
        if own == f"procession-{mark or 0:016x}":
            cgroups.join(parent, 0)
            break
        time.sleep(0.001)


def start(command: list[str]) -> int:
    """Start a command that is sent SIGTERM if this process is killed; return its process id."""
    own = os.getpid()
    prctl = ctypes.CDLL(None).prctl
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() == own:
            os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def stand_by(srun: int, gone: int, told: int) -> None:
    """Wait until srun has ended; bring that about once the caller is gone, or says so."""
    ended = pidfd_open(srun)
    await_one([ended, gone, told])
    at_once = False
    if await_one([told], 0):
        at_once = signal.SIGQUIT in os.read(told, 64)
    elif not await_one([ended], _LINGER) and has_tasks(srun):  # it would kill them at once
        await_one([ended], _TASKS_WAIT)
    if not await_one([ended], 0) and not at_once:
        os.kill(srun, signal.SIGTERM)
        await_one([ended], _CANCEL_WAIT)
    os.kill(
        srun, signal.SIGKILL
    )  # what it has beside it then tells Slurm; it has not been reaped yet


def has_tasks(srun: int) -> bool:
    """Whether srun has started tasks: it has a child then, to end them if it is killed itself."""
    return bool(marks.list_children(srun))


def await_one(descriptors: Sequence[int], seconds: float | None = None) -> bool:
    """Wait until one of some descriptors is readable; return whether one is."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def end_as(code: int) -> None:
    """End as a child did: with its exit code, or by its signal."""
    if code >= 0:
        sys.exit(code)
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
