"""What the ranks of one launch start: its mark, its reaper, and its end if the launch fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from procession._cleanup import cgroups, marks, reaper_client
from procession._python.clock import monotonic
from procession._python.log import warn
from procession.protocol import Process, Started

LINGER = 1.0
"""Seconds for which what ranks have left may end by itself: a ``tee`` still writes their last lines, and
helpers that unlink shared memory (torch_shm_manager) wait until their clients are gone."""


class Tree:
    """The processes that descend from a launch's ranks; ``mark`` is 0 if they are not to be ended.

    ``cgroup`` is the path of the cgroup that they are also in; empty if there is none.
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
        """Mark a process (0: this one) as one of them."""
        marks.put(pid, self.mark)
        cgroups.join(self.cgroup, pid)

    def adopt_with_children(self, pid: int) -> None:
        """Mark a process, and the children that it already has, which did not inherit the mark."""
        self.adopt(pid)
        for child in marks.list_children(pid):
            self.adopt_with_children(child)

    def attach(self, started: Started) -> Started:
        """Return what was started, changed so that this tree ends when the launch fails or finishes."""

        def finish() -> None:
            if started.on_finish is not None:
                started.on_finish()
            groups = _groups_left(started.processes)
            if groups:
                self._end(groups)
            self.release()

        return started.replace(on_failure=self.end, on_finish=finish)

    def end(self) -> None:
        """End what is left of the tree."""
        self._end(None)
        cgroups.kill(self.cgroup)
        self._ended = True

    def release(self) -> None:
        """Leave what is left of the tree alone from now on, unless the search for it failed."""
        cgroups.remove(self.cgroup, 1.0 if self._ended else LINGER)  # a daemon may stay in it
        if self.mark and not self._missed:
            reaper_client.withdraw(self.mark)

    def _end(self, groups: list[int] | None) -> None:
        """End all of the tree, or what is in some groups; again, after an interrupt, with less patience."""
        now = monotonic()
        self._linger_until = self._linger_until or now + LINGER
        try:
            if not marks.end(self.mark, groups, max(self._linger_until - now, 0)):
                left = marks.describe(self.mark)
                warn("cannot end all that a launch's ranks have started: %s", left)
            self._missed = False
        except OSError as error:  # most likely no descriptors: the reaper stays responsible
            if error.errno is None:  # for example a TimeoutError that a signal handler raised
                raise
            self._missed = True
            warn("cannot look for what a launch's ranks have started: %s", error)


def _groups_left(processes: Sequence[Process]) -> list[int]:
    """Return the groups of ended ranks that may still have processes."""
    return [one.pid for one in processes if one.pid and getattr(one, "leaves_group", False)]


@contextmanager
def planted(launch_id: str, *, keep_daemons: bool) -> Iterator[Tree]:
    """Provide the tree of a launch that the block starts; if the block fails, end the tree."""
    tree = Tree(0 if keep_daemons else marks.mark_of(launch_id))
    try:
        yield tree
    except BaseException:
        tree.end()
        tree.release()
        raise
