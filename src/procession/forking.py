"""Forks the ranks of a launch, one right after the other.

What a process writes to between two forks the kernel copies for each of them, since the last child
shares it: 2 us a page, and a line of Python writes to many (reference counts).  So what can be done
before the first fork, or after the last, is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from procession import fds, wire
from procession.children import hold_child
from procession.messages import NO_SIGNAL


class Forked(NamedTuple):
    """A child, with descriptors of its parent's: its pidfd, and the parent's end of its channel."""

    pid: int
    pidfd: int
    channel: int


def fork_each(
    nprocs: int,
    become: Callable[[int, int], object],
    forked: list[Forked],
    *,
    begin: Callable[[], None] | None = None,
) -> None:
    """Fork ``nprocs`` children, each of which calls ``become(index, channel)`` and never returns.

    Each is noted in ``forked`` as soon as this process has hold of it.  With ``begin`` it is then told so
    down its channel, and ``begin`` is called, which may raise.

    Raises:
        OSError: not all could be forked; those that are noted are the caller's to end.
    """
    parent = os.getpid()
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(nprocs):
            _open_channel(ours, theirs)
        theirs.reverse()
        _fork_all(become, ours, theirs, forked, begin)
    except BaseException:
        if os.getpid() != parent:  # raised by a signal handler: the frames below are the parent's
            os._exit(1)
        for fd in (*ours[len(forked) :], *theirs):
            fds.forget(fd)
            os.close(fd)
        raise


def _open_channel(ours: list[int], theirs: list[int]) -> None:
    with fds.LOCK:
        own, other = fds.open_channel_pair()
        ours.append(fds.keep(own))
        theirs.append(fds.keep(other))


def _fork_all(
    become: Callable[[int, int], object],
    ours: list[int],
    theirs: list[int],
    forked: list[Forked],
    begin: Callable[[], None] | None,
) -> None:
    """Fork a child for each of the channels; its end of one, the last of ``theirs``, is closed here."""
    senders = [fds.as_socket(fd) for fd in ours]
    try:
        for index, sender in enumerate(senders):
            end = theirs[-1]
            fds.forget(end)  # the next child keeps it, and closes all the others
            pid = os.fork()
            if pid == 0:
                become(index, end)
            forked.append(Forked(pid, hold_child(pid), ours[index]))
            os.close(theirs.pop())
            if begin is not None:
                try:
                    sender.send(wire.BEGIN, NO_SIGNAL)
                except ConnectionError:  # it was killed: its exit code says more
                    pass
                begin()
    finally:
        for sender in senders:
            sender.detach()
