"""The caller's half of the exit barrier: the pipe that all ranks hold open until their functions return.

A rank that has returned closes its write end and waits for end of file, which comes once the last rank has
returned or ended.  The caller takes no part, so ranks leave whether or not it supervises them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from procession._linux import fds
from procession.protocol import Launch


@contextmanager
def exit_barrier(launch: Launch) -> Iterator[list[int]]:
    """Provide both ends of the pipe that the ranks inherit; an empty list for a launch without a barrier."""
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
def inheritable(ends: list[int]) -> Iterator[None]:
    """Let children forked in the block inherit the ends; no other thread forks in the meantime."""
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
