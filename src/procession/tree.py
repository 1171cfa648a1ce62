"""What the ranks of one launch start: its mark, its warden, and its end where the launch fails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from procession import cgroups, descendants, lifeline
from procession.protocol import Launch, Process, Started

if TYPE_CHECKING:
    from procession.rank import Orders


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
                descendants.end(self.mark, groups)
            self.release()

        return replace(started, on_failure=self.end, on_finish=finish)

    def end(self) -> None:
        """Kill what is left of it."""
        cgroups.kill(self.cgroup)
        descendants.end(self.mark)

    def release(self) -> None:
        """Leave what is left of it alone from now on."""
        cgroups.remove(self.cgroup)
        if self.mark:
            lifeline.withdraw(self.mark)


def _groups_left(processes: Sequence[Process]) -> list[int]:
    """Return the ranks' groups that may hold what has not been ended and reaped with the rank.

    Who is process 1 inherits what was killed with a rank, and has to reap it; and a rank that
    somebody else has reaped took the number of its group along.
    """
    heir = os.getpid() == 1
    return [one.pid for one in processes if one.pid and (heir or getattr(one, "was_reaped", False))]


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
