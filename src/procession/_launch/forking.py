"""Forks the ranks of a launch, one right after the other.

What a process writes to between two forks the kernel copies for each of them, since the last child
shares it: 2 us a page, and a line of Python writes to many (reference counts).  So what can be done
before the first fork, or after the last, is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeAlias

from procession._cleanup.children import hold_child
from procession._linux import fds
from procession._linux.messages import NO_SIGNAL
from procession._python import unpatched
from procession._python.imported import get_if_imported
from procession._rank import life, wire
from procession._rank.fork_signals import Inheritance
from procession._rank.report import describe, write_error

Live: TypeAlias = Callable[[int, int], tuple[int, bool]]
"""Lives a rank's life, by its index and channel; returns its exit status and whether it succeeded."""


class Forked(NamedTuple):
    """A child, with descriptors of its parent's: its pidfd, and the parent's end of its channel."""

    pid: int
    pidfd: int
    channel: int


def fork_each(
    nprocs: int,
    live: Live,
    forked: list[Forked],
    *,
    inheritance: Inheritance,
    begin: Callable[[], None] | None = None,
) -> None:
    """Fork ``nprocs`` children, each of which lives ``live(index, channel)`` and then ends.

    Each is noted in ``forked`` as soon as this process has hold of it.  With ``begin`` it is then told so
    down its channel, and ``begin`` is called, which may raise.  What a child does about signals the
    inheritance says.

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
        with fds.trusted(), inheritance:
            _fork_all(live, ours, theirs, forked, begin, inheritance)
    except BaseException:
        if os.getpid() != parent:  # raised by a signal handler: the frames below are the parent's
            os._exit(1)
        for fd in (*ours[len(forked) :], *theirs):
            fds.forget(fd)
            unpatched.close(fd)
        raise


def _open_channel(ours: list[int], theirs: list[int]) -> None:
    with fds.LOCK:
        own, other = fds.open_channel_pair()
        ours.append(fds.keep(own))
        theirs.append(fds.keep(other))


def _fork_all(
    live: Live,
    ours: list[int],
    theirs: list[int],
    forked: list[Forked],
    begin: Callable[[], None] | None,
    inheritance: Inheritance,
) -> None:
    """Fork a child for each of the channels; its end of one, the last of ``theirs``, is closed here."""
    senders = [fds.as_socket(fd) for fd in ours]
    _keep_tracker(True)
    try:
        for index, sender in enumerate(senders):
            end = theirs[-1]
            fds.forget(end)  # the next child keeps it, and closes all the others
            pid = unpatched.fork()
            if pid == 0:
                _become_rank(live, index, end, inheritance)
            forked.append(Forked(pid, hold_child(pid), ours[index]))
            unpatched.close(theirs.pop())
            if begin is not None:
                try:
                    sender.send(wire.BEGIN, NO_SIGNAL)
                except ConnectionError:  # it was killed: its exit code says more
                    pass
                if index % 16 == 0:  # to look at each would cost pages
                    inheritance.admit_interrupt()
                begin()
    finally:
        _keep_tracker(False)
        for sender in senders:
            sender.detach()


def _keep_tracker(keep: bool) -> None:
    """Say whether this thread's forks keep the resource tracker, as multiprocessing does for its own.

    Newer versions of Python have others close its descriptor.
    """
    intent = get_if_imported("multiprocessing.resource_tracker", "_fork_intent")
    if intent is not None:
        intent.preserve_fd = keep


def _become_rank(live: Live, index: int, channel: int, inheritance: Inheritance) -> NoReturn:
    """Live a rank's life in a process just forked, and never return to its parent's frames."""
    status, succeeded = 1, False
    try:
        _keep_tracker(False)
        inheritance.reset()
        life.mask = inheritance.mask
        status, succeeded = live(index, channel)
    except BaseException as error:  # of ours: a rank's own are in its report
        write_error(describe(error))
    finally:
        try:
            life.leave(status, succeeded)
        finally:  # a signal handler may raise before `leave` is on its guard
            os._exit(status or 1)
