"""What the ranks of one launch start: its mark, its warden, and its end where the launch fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from procession import cgroups, descendants, lifeline
from procession.protocol import Launch, Process, Started

if TYPE_CHECKING:
    from procession.rank import Orders

LINGER = 0.3
"""Seconds for which what ranks have left may end by itself: a ``tee`` has their last lines to write."""


class Tree:
    """The processes that descend from a launch's ranks; ``mark`` is 0 where they are not to be ended.

    ``cgroup`` is the path of the cgroup that they are in as well, if they are.
    """

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.cgroup: str = cgroups.create(mark) if mark else ""
        if mark:
            lifeline.announce(mark)

    def adopt(self, pid: int) -> None:
        """Have a process (0: this one) be one of them."""
        descendants.mark(pid, self.mark)
        cgroups.join(self.cgroup, pid)

    def attach(self, started: Started) -> Started:
        """Return what was started, with this tree's end bound to that of the launch."""

        def finish() -> None:
            if started.on_finish is not None:
                started.on_finish()
            groups = _groups_left(started.processes)
            if groups:
                descendants.end(self.mark, groups, LINGER)
            self.release()

        return replace(started, on_failure=self.end, on_finish=finish)

    def end(self) -> None:
        """End what is left of it."""
        descendants.end(self.mark, linger=LINGER)
        cgroups.kill(self.cgroup)

    def release(self) -> None:
        """Leave what is left of it alone from now on."""
        cgroups.remove(self.cgroup)
        if self.mark:
            lifeline.withdraw(self.mark)


def _groups_left(processes: Sequence[Process]) -> list[int]:
    """Return the groups of ranks that have ended in which there may be something still."""
    return [one.pid for one in processes if one.pid and getattr(one, "leaves_group", False)]


@contextmanager
def planted(launch: Launch, orders: Orders) -> Iterator[Tree]:
    """Provide the tree of a launch that the block starts; if it cannot, nothing is left of it."""
    tree = Tree(0 if launch.keep_daemons else descendants.mark_of(orders["launch_id"]))
    try:
        yield tree
    except BaseException:
        tree.end()
        tree.release()
        raise
