"""A module for a forkserver to preload: its Nth `os.fork` fails, or ends the server.

FAULTY_FORK in the environment is ``fails N`` or ``kills N``.  With NOTED_PIDS, the process id of each child
becomes a line of that file.
"""

from __future__ import annotations

import errno
import os
import signal

_how, _, _number = os.environ["FAULTY_FORK"].partition(" ")
_noted = os.environ.get("NOTED_PIDS")
_real = os.fork
_calls: list[None] = []


def fork() -> int:
    _calls.append(None)
    if len(_calls) == int(_number):
        if _how == "fails":
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        os.kill(os.getpid(), signal.SIGKILL)
    pid = _real()
    if pid and _noted:
        with open(_noted, "a") as file:
            file.write(f"{pid}\n")
    return pid


os.fork = fork
