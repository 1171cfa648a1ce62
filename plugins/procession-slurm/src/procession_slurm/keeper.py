"""Runs srun for a launch, and takes srun's job out of Slurm's queue once the launch's caller is gone.

If srun is killed while it waits, Slurm keeps its job: first in the queue, and then, with all its resources,
until its time limit.  On SIGTERM srun cancels the job instead.  Therefore srun is a child of this process,
and procession does not kill either of them with the processes that the caller started.  If this process is
killed, the kernel sends SIGTERM to srun.

The caller sends SIGTERM if srun must cancel its job, and SIGQUIT if srun may be killed at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Sequence

from procession.authoring import leave_launch, list_children, pidfd_open

_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)
_LINGER = 0.3  # seconds for srun to end by itself once its caller is gone
_TASKS_WAIT = 5.0  # further seconds if its tasks run: they must end what ranks started
_CANCEL_WAIT = 2.0  # seconds for srun to cancel its job
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run a command for a caller; the arguments are the caller's process id and the command."""
    caller, command = int(sys.argv[1]), sys.argv[2:]
    signalled = note_signals()
    try:
        gone = pidfd_open(caller)
    except ProcessLookupError:
        return
    if os.getppid() != caller:  # another process has that id by now
        return
    leave_launch(caller)
    srun = start(command)
    stand_by(srun, gone, signalled)
    end_as(os.waitstatus_to_exitcode(os.waitpid(srun, 0)[1]))


def note_signals() -> int:
    """Return a descriptor from which the numbers of arrived signals can be read."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    return read


def start(command: list[str]) -> int:
    """Start a command that gets SIGTERM if this process dies; return its process id."""
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


def stand_by(srun: int, gone: int, signalled: int) -> None:
    """Wait until srun has ended; end it once the caller is gone or sends a signal."""
    ended = pidfd_open(srun)
    await_one([ended, gone, signalled])
    at_once = False
    if await_one([signalled], 0):
        at_once = signal.SIGQUIT in os.read(signalled, 64)
    elif not await_one([ended], _LINGER) and has_tasks(srun):  # on SIGTERM it kills them at once
        await_one([ended], _TASKS_WAIT)
    if not await_one([ended], 0) and not at_once:
        os.kill(srun, signal.SIGTERM)
        await_one([ended], _CANCEL_WAIT)
    # srun has not been reaped, so that its id is valid; its child process then informs Slurm
    os.kill(srun, signal.SIGKILL)


def has_tasks(srun: int) -> bool:
    """Return whether srun runs tasks: it then has a child, which ends them if srun is killed."""
    return bool(list_children(srun))


def await_one(descriptors: Sequence[int], seconds: float | None = None) -> bool:
    """Wait until one of the descriptors is readable; return whether one is."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def end_as(code: int) -> None:
    """End this process as a child ended: with its exit code, or by its signal."""
    if code >= 0:
        sys.exit(code)
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
