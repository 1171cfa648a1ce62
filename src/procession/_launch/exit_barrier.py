"""Ranks that leave together: all hold one pipe open until their functions have returned.

Each then waits for its end of file, which comes when the last has let go of it, by its return or its end.
So nobody has to stand by: ranks leave whether or not their caller looks after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from procession._linux import fds
from procession.protocol import Launch


@contextmanager
def exit_barrier(launch: Launch) -> Iterator[list[int]]:
    """Provide what the ranks are to inherit: both ends of a pipe, if they are to leave together."""
    ends: list[int] = []
    if launch.exit_barrier:
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
