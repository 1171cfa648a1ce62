"""The parent-death guard: a rank ends when the process that launched it is gone, whatever it is doing.

The launching process holds the only write end of one pipe; each rank opens the read end anew and asks
the kernel to send it SIGKILL when that pipe hangs up (fcntl(2): O_ASYNC, F_SETOWN, F_SETSIG).  This
follows the process and not, as PR_SET_PDEATHSIG does, the thread that forked; it cannot be caught and
needs no interpreter.  Ranks import this module: it imports nothing at its top but os and sys.
"""

from __future__ import annotations

import os
import sys

from procession._python.fd_numbers import lift

_system = sys.modules[os.name]  # whose functions stay, whatever replaces those of `os`


def arm(fd: int) -> int:
    """Bind this process to the life of the death pipe's writer; return the guard's descriptor.

    Exits the process at once if the writer is gone already.  ``fd`` is closed.
    """
    import fcntl

    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc: siblings share one open file, whose owner is the last to ask
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
    os._exit(1)  # end of file: the writer died before the guard stood
