"""Reaps child processes and signals their groups, while the kernel cannot reuse their numbers."""

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

    If the child failed, first kill what is left in its group, unless the child carries ``mark``: its launch
    then ends what is left (see `tree`).

    Raises:
        ChildProcessError: the child was reaped elsewhere.
    """
    # WNOWAIT leaves a zombie, so that the number of the process, and of its group, is not reused
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
    if code != 0 and not (mark and read_mark(pid) == mark):
        signal_group(pid, signal.SIGKILL)
    try:
        unpatched.waitpid(pid, 0)
    except ChildProcessError:  # reaped meanwhile
        pass
    return code


def hold_child(pid: int) -> int:
    """Return a pidfd of a child just started, kept for this process alone; if that fails, end the child.

    A child that was reaped elsewhere gets a descriptor that says that it has ended.
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
    """Return whether there is a group of this number after its leader has ended: perhaps what it left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def signal_group(pid: int, number: int) -> bool:
    """Signal the group that an unreaped process leads; return whether it leads one."""
    try:
        if os.getpgid(pid) != pid:
            return False
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def terminate_child(pid: int) -> None:
    """Send SIGTERM to an unreaped child, and to its descendants in its group that have a handler for SIGTERM.

    A descendant without a handler could only die of it.  It may be a helper that must outlive the child to
    clean up after it (torch_shm_manager); otherwise it ends with the launch.
    """
    handling = list(_open_handling(pid, pid))
    try:
        os.kill(pid, signal.SIGTERM)
        for pidfd in handling:
            syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        for pidfd in handling:
            unpatched.close(pidfd)


def _open_handling(pid: int, group: int) -> Iterator[int]:
    """Yield pidfds of a process's descendants that are in a group and have a handler for SIGTERM."""
    for child in list_children(pid):
        yield from _open_handling(child, group)
        if not read_mask(child, "SigCgt") >> (signal.SIGTERM - 1) & 1:
            continue
        try:
            pidfd = syscalls.pidfd_open(child)
        except OSError:  # it has ended
            continue
        if child in list_children(pid) and os.getpgid(child) == group:  # the number was not reused
            yield pidfd
        else:
            unpatched.close(pidfd)
