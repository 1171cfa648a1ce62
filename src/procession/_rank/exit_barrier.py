"""The rank's half of the exit barrier: ranks that have returned wait here until all others have.

All ranks hold one pipe open until their functions have returned.  Each then waits for its end of file, which
comes when the last rank lets go of it, by its return or its end; so ranks leave whether or not their caller
still supervises them.
"""

from __future__ import annotations

import os

from procession._python import unpatched
from procession._python.fd_numbers import lift

_ends: list[int] = []


def hold(ends: list[int]) -> None:
    """Take over, in a rank, the ends that it has inherited; what it forks does not have them."""
    _ends[:] = [lift(fd) for fd in ends]
    os.register_at_fork(after_in_child=_let_go)


def await_others() -> None:
    """Let go, and wait until all others have; what closes descriptors by their number ends that."""
    if _ends:
        reader, writer = _ends
        try:
            unpatched.close(writer)
            unpatched.read(reader, 1)
        except OSError:
            pass
        _ends.clear()


def _let_go() -> None:
    for fd in _ends:
        unpatched.close(fd)
    _ends.clear()
