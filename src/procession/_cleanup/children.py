"""A child process of this one: its exit code, and signals to its group, while its number is its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from procession._cleanup.marks import list_children, read_mark
from procession._linux import fds, syscalls
from procession._linux.procstat import read_mask
from procession._python import unpatched
from procession._python.fd_numbers import above_streams


def collect_child(pid: int, mark: int = 0) -> int | None:
    """Reap a child if it has ended; return its exit code (-N for signal N), None while it runs.

    What a child that failed has started, and that is still in its group, is killed first, unless it
    carries this mark, and so is ended with its launch (see `tree`).

    Raises:
        ChildProcessError: somebody else has reaped it.
    """
    # WNOWAIT leaves a zombie, which keeps the pid, and so the group, from being anybody's
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
    if code != 0 and not (mark and read_mark(pid) == mark):
        signal_group(pid, signal.SIGKILL)
    try:
        unpatched.waitpid(pid, 0)
    except ChildProcessError:  # reaped in this instant
        pass
    return code


def hold_child(pid: int) -> int:
    """Return a pidfd of a child just started, kept for this process alone; if that fails, end the child.

    One that somebody else has reaped already gets a descriptor that says it has ended.
    """
    try:
        return fds.keep(syscalls.pidfd_open(pid))
    except ProcessLookupError:
        return fds.keep(above_streams(os.eventfd(1, os.EFD_CLOEXEC)))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        unpatched.waitpid(pid, 0)
        raise


def leaves_group(pid: int) -> bool:
    """Whether there is a group of this number, now that its leader has ended: perhaps what it left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def signal_group(pid: int, number: int) -> bool:
    """Signal the group that an unreaped process leads; tell whether it leads one."""
    try:
        if os.getpgid(pid) != pid:
            return False
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def terminate_child(pid: int) -> None:
    """Send SIGTERM to a child that is not reaped, and to those in its group that have a handler for it.

    What has none could only die of it.  It may be a helper that has to outlive the child to clean up after
    it (torch_shm_manager), and ends with the launch otherwise.
    """
    heeding = list(_open_heeding(pid, pid))
    try:
        os.kill(pid, signal.SIGTERM)
        for pidfd in heeding:
            syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        for pidfd in heeding:
            unpatched.close(pidfd)


def _open_heeding(pid: int, group: int) -> Iterator[int]:
    """Yield pidfds of what a process has started that is in a group and has a handler for SIGTERM."""
    for child in list_children(pid):
        yield from _open_heeding(child, group)
        if not read_mask(child, "SigCgt") >> (signal.SIGTERM - 1) & 1:
            continue
        try:
            pidfd = syscalls.pidfd_open(child)
        except OSError:  # it has ended
            continue
        if child in list_children(pid) and os.getpgid(child) == group:  # the number is its own
            yield pidfd
        else:
            unpatched.close(pidfd)
