"""Death pipes for the processes that a launch starts (see `parent_death`): one for all, or one for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from procession._linux import fds
from procession._python import unpatched

_LISTING = "/proc/self/fd"  # by which each rank opens the read end anew

_pipe: tuple[int, int, int, int] | None = None  # both ends, their inode, the process that made them

_writers: list[int] = []
"""The write ends of pipes that each are one process's, until that process is gone."""


@contextmanager
def death_pipes(count: int) -> Iterator[list[int]]:
    """Provide the read end of a death pipe for each of ``count`` processes that the block starts.

    It is the same for all, except where they cannot open it anew for want of /proc.  The process that the
    kernel signals belongs to the open file: each of them then needs a pipe that is its alone.
    """
    if os.path.exists(_LISTING):
        yield [own_pipe()] * count
        return
    readers: list[int] = []
    try:
        with fds.LOCK:
            _close_unread()
            for _ in range(count):
                reader, writer = fds.open_pipe()
                readers.append(reader)
                _writers.append(fds.keep(writer))
        yield readers
    finally:
        for fd in readers:
            unpatched.close(fd)


def choose(pipes: list[int], index: int) -> int:
    """Return the pipe of a process just forked, and close those of the others."""
    for fd in set(pipes) - {pipes[index]}:
        unpatched.close(fd)
    return pipes[index]


def _close_unread() -> None:
    """Close the write ends that nobody reads any more."""
    for fd in _writers.copy():
        poll = unpatched.poll()
        poll.register(fd, 0)
        if not fds.is_kept(fd) or poll.poll(0):  # POLLERR: no read end is open (poll(2))
            _writers.remove(fd)
            fds.drop(fd)


def own_pipe() -> int:
    """Return the read end of this process's death pipe, made when first asked for."""
    global _pipe
    with fds.LOCK:
        if _pipe is None or not _stands(*_pipe):
            read, write = fds.open_pipe()
            inode = os.fstat(read).st_ino
            _pipe = read, fds.keep(write), inode, os.getpid()  # forked ranks need the read end
        return _pipe[0]


def _stands(read: int, write: int, inode: int, pid: int) -> bool:
    """Whether a death pipe is this process's own, was not closed by its number, and ranks may open it.

    They may not where it was made before this process dropped its privileges.  It stays open all the same:
    ranks of that time depend on it.
    """
    try:
        ends = os.fstat(read), os.fstat(write)
    except OSError:
        return False
    is_ours = pid == os.getpid() and all(end.st_ino == inode for end in ends)
    return is_ours and os.geteuid() in (ends[0].st_uid, 0)
