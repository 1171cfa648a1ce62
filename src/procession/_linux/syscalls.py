"""Linux system calls that some builds of Python lack (those built against old headers).

Callers import this module.  Ranks import it only with `_cleanup.marks`.
"""

from __future__ import annotations

import os
import signal
import sys
from time import monotonic

from procession._python import unpatched
from procession._python.fd_numbers import above_streams

_PIDFD_SEND_SIGNAL = 424
# both numbers are the same on every architecture: they are newer than the separate tables
_PIDFD_OPEN = 434
# _IOWR(0xFF, 11, struct pidfd_info), Linux 6.13; exit status since 6.15
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_RELEASE = 0.1  # seconds for the kernel, or another process, to reap a process that has ended


def pidfd_open(pid: int) -> int:
    """Return a pidfd (pidfd_open(2)) above the standard streams; it is readable once the process has ended.

    Raises:
        OSError: ESRCH, no such process; ENOSYS, a kernel before 5.3.
    """
    if hasattr(os, "pidfd_open"):
        return above_streams(os.pidfd_open(pid))
    return above_streams(_syscall(_PIDFD_OPEN, pid, 0))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to the process behind a pidfd, never to another one (pidfd_send_signal(2)).

    Raises:
        ProcessLookupError: it has ended and been reaped.
    """
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(pidfd, number)
    else:
        _syscall(_PIDFD_SEND_SIGNAL, pidfd, number, None, 0)


def pidfd_wait_status(pidfd: int) -> int | None:
    """Return the wait status of a process that was reaped elsewhere; None if it cannot be known.

    The kernel itself reaps a process if SIGCHLD is ignored.  A poll then reports the end a little before the
    status is available, so this asks again as long as the kernel still knows the process.
    """
    until = monotonic() + _RELEASE
    refusals = 0
    while refusals < 2:
        try:
            status = _ask_exit_status(pidfd)
        except OSError:  # ESRCH: it is gone, perhaps only since the kernel looked for its status
            refusals += 1
            continue
        if status is not None or monotonic() >= until:
            return status
        unpatched.sleep(0.0002)
    return None


def _ask_exit_status(pidfd: int) -> int | None:
    """Return a wait status; None if there is none yet.

    Raises:
        OSError: ESRCH, the process is gone, and so is its status.
    """
    import fcntl

    info = bytearray(64)
    info[0:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    if not int.from_bytes(info[0:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[60:64], sys.byteorder, signed=True)


def pidfds_work() -> bool:
    """Return whether this kernel and sandbox allow pidfds."""
    try:
        unpatched.close(pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def _syscall(number: int, *args: int | None) -> int:
    import ctypes

    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
