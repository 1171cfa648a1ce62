"""Forks the ranks of a launch, one right after the other.

Children share the parent's pages.  The kernel copies each page that the parent writes to between two forks,
at 2 us a page, and a line of Python writes to many pages (reference counts).  So all work that can be done
before the first fork or after the last one is done there.
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
"""Runs a rank, given its index and channel; returns its exit status and whether it succeeded."""


class Child(NamedTuple):
    """A forked child, as its parent sees it: its pid, its pidfd and the parent's end of its channel."""

    pid: int
    pidfd: int
    channel: int


def fork_each(
    nprocs: int,
    live: Live,
    children: list[Child],
    *,
    inheritance: Inheritance,
    begin: Callable[[], None] | None = None,
) -> None:
    """Fork ``nprocs`` children, each of which calls ``live(index, channel)`` and then exits.

    Args:
        nprocs: how many.
        live: what each child runs.
        children: receives each child as soon as this process holds a pidfd for it.
        inheritance: which signal handlers the children keep.
        begin: if given, each child is sent the go-ahead through its channel, and this function is called
            after each fork; it may raise.

    Raises:
        OSError: a fork failed; the caller must end the children in ``children``.
    """
    parent = os.getpid()
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(nprocs):
            _open_channel(ours, theirs)
        theirs.reverse()
        with fds.trusted(), inheritance:
            _fork_all(live, ours, theirs, children, begin, inheritance)
    except BaseException:
        if os.getpid() != parent:  # a handler raised in a child: the frames below are the parent's
            os._exit(1)
        for fd in (*ours[len(children) :], *theirs):
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
    children: list[Child],
    begin: Callable[[], None] | None,
    inheritance: Inheritance,
) -> None:
    """Fork one child per channel; close the child's end of it, the last of ``theirs``, in this process."""
    senders = [fds.borrow(fd) for fd in ours]
    _keep_tracker(True)
    try:
        for index, sender in enumerate(senders):
            end = theirs[-1]
            fds.forget(end)  # the next child keeps this end and closes all others
            pid = unpatched.fork()
            if pid == 0:
                _become_rank(live, index, end, inheritance)
            children.append(Child(pid, hold_child(pid), ours[index]))
            unpatched.close(theirs.pop())
            if begin is not None:
                try:
                    sender.send(wire.BEGIN, NO_SIGNAL)
                except ConnectionError:  # the child was killed: its exit code says more
                    pass
                if index % 16 == 0:  # not after each fork: the check writes to pages
                    inheritance.admit_interrupt()
                begin()
    finally:
        _keep_tracker(False)
        for sender in senders:
            sender.detach()


def _keep_tracker(keep: bool) -> None:
    """Set whether children that this thread forks keep the resource tracker, as multiprocessing's forks do.

    In newer versions of Python, children of other forks close its descriptor.
    """
    intent = get_if_imported("multiprocessing.resource_tracker", "_fork_intent")
    if intent is not None:
        intent.preserve_fd = keep


def _become_rank(live: Live, index: int, channel: int, inheritance: Inheritance) -> NoReturn:
    """Run a rank in a process just forked; never return to the parent's frames."""
    status, succeeded = 1, False
    try:
        _keep_tracker(False)
        inheritance.reset()
        life.mask = inheritance.mask
        status, succeeded = live(index, channel)
    except BaseException as error:  # not the rank's own error, which is in its report
        write_error(describe(error))
    finally:
        try:
            life.leave(status, succeeded)
        finally:  # a signal handler may raise before `leave` enters its own try block
            os._exit(status or 1)
