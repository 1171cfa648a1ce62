"""What the other ranks do in the fault cases: some resist being stopped, some fail as a consequence."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from procession.testing.faults import Act
from procession.testing.scratch import Stage, state_of


def first_rank(act: Act) -> Act:
    """Return an act for the other ranks: the first one to begin performs ``act``, the rest work."""

    def either(stage: Stage) -> None:
        try:
            (stage.folder / "taken").mkdir()
        except FileExistsError:
            stage.work()
        else:
            act(stage)

    return either


def ignore_termination(stage: Stage) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stage.tell("ready")
    stage.work()


def work_in_c(stage: Stage) -> None:
    """Stay in C with the GIL held, so that a handler written in Python never runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    stage.tell("ready")
    lock_forever()


def lock_forever(loader: Callable[[None], ctypes.CDLL] = ctypes.PyDLL) -> None:
    """Lock a mutex twice in C: only SIGKILL interrupts that.

    With `ctypes.PyDLL` the thread holds the GIL meanwhile, with `ctypes.CDLL` it does not.
    """
    mutex = ctypes.create_string_buffer(
        64
    )  # zeros: pthread_mutex_init(3), PTHREAD_MUTEX_INITIALIZER
    library = loader(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def stop_yourself(stage: Stage) -> None:
    stage.tell("stopping", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
    stage.work()


def await_stop(stage: Stage) -> None:
    _await_state(int(stage.await_cue("stopping")), "Tt")


def wait_in_vfork(stage: Stage) -> None:
    """Wait for a child of vfork: the state is D, as in a wait for a disk, but SIGKILL ends it."""
    code = (
        "import ctypes, os, sys, time\n"
        "libc = ctypes.CDLL(None)\n"
        "if libc.vfork() == 0:\n"
        "    time.sleep(float(sys.argv[1]))\n"
        "    os._exit(0)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(stage.busy)])
    stage.note(child.pid)
    _await_state(child.pid, "D")
    stage.tell("ready")
    child.wait()


def _await_state(pid: int, letters: str) -> None:
    while state_of(pid) not in letters + "X":
        time.sleep(0.001)


def follow_soon(stage: Stage) -> None:
    """Fail 2 ms after rank 1, as a consequence of its failure."""
    stage.await_cue("failing")
    time.sleep(0.002)
    raise ConnectionResetError("secondary")


class Cueing(ValueError):
    """An exception that gives the cue for a secondary failure while its own text is composed."""

    def __init__(self, stage: Stage) -> None:
        super().__init__("the root cause")
        self.stage = stage

    def __str__(self) -> str:
        self.stage.tell("failing")
        return "the root cause"


def fail_first(stage: Stage) -> None:
    raise Cueing(stage)


def fail_first_and_linger(stage: Stage) -> None:
    atexit.register(stage.work)
    atexit.register(stage.tell, "failing")
    raise ValueError("the root cause")
