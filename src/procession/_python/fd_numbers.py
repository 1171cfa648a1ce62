"""Moves descriptors to numbers that user code neither expects nor closes.

Ranks import this module: at its top it imports only os and sys.
"""

from __future__ import annotations

import os
import sys

HIGH = 900
"""Lowest number for a rank's descriptors: user code that closes low numbers does not hit them."""

_system = sys.modules[os.name]  # its functions stay original where those of `os` are patched


def above_streams(fd: int) -> int:
    """Move a descriptor out of 0, 1, 2, which the kernel gives out where a standard stream is closed."""
    if fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    _system.close(fd)
    return moved


def lift(fd: int) -> int:
    """Move a descriptor to `HIGH` or above, where the limits allow it, and return its number."""
    import fcntl

    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:  # RLIMIT_NOFILE is lower: stay
        os.set_inheritable(fd, False)
        return above_streams(fd)
    os.close(fd)
    return high
