"""What the ranks of one launch start: its mark, its reaper, and its end where the launch fails."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from procession._cleanup import cgroups, marks, reaper_client
from procession._python.log import warn
from procession.protocol import Process, Started

LINGER = 1.0
"""Seconds for which what ranks have left may end by itself: a ``tee`` has their last lines to write, and
helpers that unlink shared memory (torch_shm_manager) wait until their clients are gone."""


class Tree:
    """The processes that descend from a launch's ranks; ``mark`` is 0 where they are not to be ended.

    ``cgroup`` is the path of the cgroup that they are in as well, if they are.
    """

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.cgroup: str = cgroups.create(mark) if mark else ""
        self._linger_until = 0.0
        self._ended = False
        self._missed = False
        if mark:
            reaper_client.announce(mark)

    def adopt(self, pid: int) -> None:
        """Have a process (0: this one) be one of them."""
        marks.put(pid, self.mark)
        cgroups.join(self.cgroup, pid)

    def adopt_with_children(self, pid: int) -> None:
        """Have a process be one of them that may have started others already: these first carry no mark."""
        self.adopt(pid)
        for child in marks.list_children(pid):
            self.adopt_with_children(child)

    def attach(self, started: Started) -> Started:
        """Return what was started, with this tree's end bound to that of the launch."""

        def finish() -> None:
            if started.on_finish is not None:
                started.on_finish()
            groups = _groups_left(started.processes)
            if groups:
                self._end(groups)
            self.release()

        return started._replace(on_failure=self.end, on_finish=finish)

    def end(self) -> None:
        """End what is left of it."""
        self._end(None)
        cgroups.kill(self.cgroup)
        self._ended = True

    def release(self) -> None:
        """Leave what is left of it alone from now on, unless it could not be looked for."""
        cgroups.remove(self.cgroup, 1.0 if self._ended else LINGER)  # a daemon may stay in it
        if self.mark and not self._missed:
            reaper_client.withdraw(self.mark)

    def _end(self, groups: list[int] | None) -> None:
        """End all of it, or what is in some groups; again, after an interrupt, with less patience."""
        now = time.monotonic()
        self._linger_until = self._linger_until or now + LINGER
        try:
            if not marks.end(self.mark, groups, max(self._linger_until - now, 0)):
                left = marks.describe(self.mark)
                warn("what a launch's ranks have started could not all be ended: %s", left)
            self._missed = False
        except OSError as error:  # no descriptors, most likely: the reaper stays responsible
            if error.errno is None:  # a TimeoutError, say, that a signal handler has raised here
                raise
            self._missed = True
            warn("cannot look for what a launch's ranks have started: %s", error)


def _groups_left(processes: Sequence[Process]) -> list[int]:
    """Return the groups of ranks that have ended in which there may be something still."""
    return [one.pid for one in processes if one.pid and getattr(one, "leaves_group", False)]


@contextmanager
def planted(launch_id: str, *, keep_daemons: bool) -> Iterator[Tree]:
    """Provide the tree of a launch that the block starts; if it cannot, nothing is left of it."""
    tree = Tree(0 if keep_daemons else marks.mark_of(launch_id))
    try:
        yield tree
    except BaseException:
        tree.end()
        tree.release()
        raise
