"""Ranks that leave together: all hold one pipe open until their functions have returned.

Each then waits for its end of file, which comes when the last has let go of it, by its return or its end.
So nobody has to stand by: ranks leave whether or not their caller looks after them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from procession._linux import fds
from procession._linux.fd_numbers import lift
from procession._python import unpatched
from procession.protocol import Launch

_ends: list[int] = []  # this rank's own


@contextmanager
def gathering(launch: Launch) -> Iterator[list[int]]:
    """Provide what the ranks are to inherit: both ends of a pipe, if they are to leave together."""
    ends: list[int] = []
    if launch.together:
        with fds.LOCK:
            ends = [fds.keep(fd) for fd in fds.open_pipe()]
    try:
        yield ends
    finally:
        for fd in ends:
            fds.drop(fd)


@contextmanager
def inherited(ends: list[int]) -> Iterator[None]:
    """Let the children that are forked in the block have the ends; no other thread forks meanwhile."""
    if not ends:
        yield
        return
    with fds.LOCK:
        for fd in ends:
            fds.forget(fd)
        try:
            yield
        finally:
            for fd in ends:
                fds.keep(fd)


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
