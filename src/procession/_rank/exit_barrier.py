"""The rank's half of the exit barrier: ranks that have returned wait here until all others have.

All ranks hold one pipe open until their functions return.  Each rank then closes its write end and waits for
end of file, which comes when the last rank has returned or ended.  So ranks leave whether or not their caller
still supervises them.
"""

from __future__ import annotations

import os

from procession._python import unpatched
from procession._python.fd_numbers import lift

_ends: list[int] = []


def hold(ends: list[int]) -> None:
    """Take over the pipe's ends that a rank inherited; processes that the rank forks close them."""
    _ends[:] = [lift(fd) for fd in ends]
    os.register_at_fork(after_in_child=_close_ends)


def await_others() -> None:
    """Close the write end and wait until all other ranks have closed theirs.

    A rank whose code has closed these descriptors by number does not wait.
    """
    if _ends:
        reader, writer = _ends
        try:
            unpatched.close(writer)
            unpatched.read(reader, 1)
        except OSError:
            pass
        _ends.clear()


def _close_ends() -> None:
    for fd in _ends:
        unpatched.close(fd)
    _ends.clear()
