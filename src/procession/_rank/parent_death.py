"""The rank's half of the parent-death signal: a rank ends when its caller is gone, whatever it is doing.

The caller holds the only write end of a pipe, the death pipe.  Each rank opens the read end anew and asks the
kernel to send it SIGKILL when that pipe hangs up (fcntl(2): O_ASYNC, F_SETOWN, F_SETSIG).  The signal follows
the caller's process; PR_SET_PDEATHSIG would follow the thread that forked.  It cannot be caught, and works
while Python does not run.  Ranks import this module: at its top it imports only os, sys and `lift`.
"""

from __future__ import annotations

import os
import sys

from procession._python.fd_numbers import lift

_system = sys.modules[os.name]  # its functions stay original where those of `os` are patched


def arm(fd: int) -> int:
    """Bind this process's life to that of the death pipe's writer; return the descriptor that watches it.

    Exits the process at once if the writer is already gone.  Closes ``fd``.
    """
    import fcntl

    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc: siblings share one open file, and the last to ask owns it
        own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    own = lift(own)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, 9)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    try:
        _system.read(own, 1)
    except BlockingIOError:
        return own
    os._exit(1)  # end of file: the writer died before the signal was armed
