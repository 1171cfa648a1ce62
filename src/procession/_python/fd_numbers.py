"""Moves descriptors to numbers where nobody expects, or closes, them.

Ranks import this module: it imports nothing at its top but os and sys.
"""

from __future__ import annotations

import os
import sys

HIGH = 900
"""Descriptors of a rank that user code should not hit by closing low numbers."""

_system = sys.modules[os.name]  # whose functions stay, whatever replaces those of `os`


def above_streams(fd: int) -> int:
    """Move a descriptor out of 0, 1, 2, which a closed standard stream leaves to whoever comes next."""
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
    except OSError:  # RLIMIT_NOFILE is below it: stay
        os.set_inheritable(fd, False)
        return above_streams(fd)
    os.close(fd)
    return high
