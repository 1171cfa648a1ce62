"""The caller's half of the parent-death signal: the death pipes of the processes that a launch starts.

`procession._rank.parent_death` is the other half.  The caller holds the only write end of a death pipe, and
so the pipe hangs up when the caller dies.  All ranks share one pipe; without /proc each rank has its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from procession._linux import fds
from procession._python import unpatched

_LISTING = "/proc/self/fd"  # through it each rank reopens the read end

_pipe: tuple[int, int, int, int] | None = None  # both ends, their inode, the process that made them

_writers: list[int] = []
"""The write ends of pipes that serve one process each, kept until that process has ended."""


@contextmanager
def death_pipes(count: int) -> Iterator[list[int]]:
    """Provide the read end of a death pipe for each of ``count`` processes that the block starts.

    All get the same pipe if they can reopen it through /proc.  Without /proc each gets its own pipe, because
    the kernel keeps one process to signal per open file (fcntl(2), F_SETOWN).
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
    """Return the pipe of a process just forked, and close the pipes of the others."""
    for fd in set(pipes) - {pipes[index]}:
        unpatched.close(fd)
    return pipes[index]


def _close_unread() -> None:
    """Close the write ends whose read ends are all closed."""
    for fd in _writers.copy():
        poll = unpatched.poll()
        poll.register(fd, 0)
        if not fds.is_kept(fd) or poll.poll(0):  # POLLERR: no read end is open (poll(2))
            _writers.remove(fd)
            fds.drop(fd)


def own_pipe() -> int:
    """Return the read end of this process's death pipe; make the pipe at the first call."""
    global _pipe
    with fds.LOCK:
        if _pipe is None or not _is_usable(*_pipe):
            read, write = fds.open_pipe()
            inode = os.fstat(read).st_ino
            _pipe = read, fds.keep(write), inode, os.getpid()  # forked ranks need the read end
        return _pipe[0]


def _is_usable(read: int, write: int, inode: int, pid: int) -> bool:
    """Tell whether new ranks can use a death pipe.

    The pipe must belong to this process, and nothing may have closed it by its number.  Ranks may not open
    a pipe that this process made before it dropped its privileges.  Such a pipe stays open all the same,
    because ranks started before depend on it.
    """
    try:
        ends = os.fstat(read), os.fstat(write)
    except OSError:
        return False
    is_ours = pid == os.getpid() and all(end.st_ino == inode for end in ends)
    return is_ours and os.geteuid() in (ends[0].st_uid, 0)
