"""Runs the tests in a child of pytest's process, which waits for it.

The parent sees whether the run was complete: a backend can end the process that runs the tests, even with
exit status 0.  The parent also adopts the orphans among that process's descendants (PR_SET_CHILD_SUBREAPER of
prctl(2)), so that the kit finds everything that a rank starts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import IO, NoReturn

_DEATH_SIGNAL, _SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER (linux/prctl.h)
_SIGNALS = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_SENT_BY_THE_KERNEL = 0x80  # SI_KERNEL: the terminal signals the child as well

_ENDED = "ended"

_notes: IO[bytes] | None = None  # the child writes it, the parent reads it after the child's end
_parent = 0


def supervise(tell: Callable[[list[str]], None]) -> None:
    """Return in a child of this process; in this process, wait for the child and exit with its status.

    Does nothing off Linux, in a process with threads, or or if this process is already such a child.

    Args:
        tell: prints the verdict if the child did not print one.
    """
    global _notes, _parent
    if sys.platform != "linux" or is_supervised() or threading.active_count() > 1:
        return
    _notes = tempfile.TemporaryFile(buffering=0)  # stays open as long as both processes live
    _parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _prctl(_SUBREAPER, 1)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Python warns of other threads, such as those of an idle BLAS
        child = os.fork()
    if child:
        _wait_and_exit(child, _notes, tell)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def is_supervised() -> bool:
    """Return whether this process runs the tests as a child of pytest's first process."""
    return _parent != 0 and os.getppid() == _parent


def root() -> int:
    """Return the pid of the process from which everything that the tests start descends."""
    return _parent if is_supervised() else os.getpid()


def note_test(name: str) -> None:
    """Note for the parent which test this process runs."""
    _write(f"in {name}")


def note_end() -> None:
    """Note for the parent that the run is complete and the verdict printed."""
    _write(_ENDED)


def _write(text: str) -> None:
    if _notes is not None and is_supervised():
        os.ftruncate(_notes.fileno(), 0)
        os.pwrite(_notes.fileno(), text.encode("utf-8", "replace"), 0)


def _wait_and_exit(child: int, notes: IO[bytes], tell: Callable[[list[str]], None]) -> NoReturn:
    status = 1
    try:
        code = _wait(child)
        noted = os.pread(notes.fileno(), 4096, 0).decode()
        status = code
        if noted != _ENDED:
            status = code or 1
            ending = f"the process that runs the tests ended with {_describe(code)} {noted}"
            tell([f"not certified: the run was cut short: {ending}"])
            sys.stdout.flush()
        status = status if status >= 0 else 128 - status
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    """Wait for a child, reap its orphans and forward signals to it; return its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a process that ignores it gets no exit codes
    while True:
        info = signal.sigwaitinfo(_SIGNALS)
        if info.si_signo != signal.SIGCHLD and info.si_code != _SENT_BY_THE_KERNEL:
            os.kill(child, info.si_signo)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                return os.waitstatus_to_exitcode(status)
            if pid == 0:
                break


def _describe(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
