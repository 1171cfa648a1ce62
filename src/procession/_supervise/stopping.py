"""Ends the ranks of a launch: a plan of signals and deadlines.

The plan has no thread.  The thread that waits for the launch calls `Stop.advance` when a stage is due.
"""

from __future__ import annotations

import enum
import logging
import signal
from collections.abc import Iterable, Sequence

from procession._linux.signals import name_signal
from procession._python.clock import monotonic
from procession._python.unpatched import RLock
from procession._rank.life import EXIT_BOUND
from procession._supervise.rank_state import RankState
from procession._supervise.stack_dump import state_of_process

DEFAULT_GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL if the caller gives no grace period."""

CATCHING_GRACE = 30.0
"""The same, in seconds, after a failure, for ranks that have a handler for SIGTERM; torch waits as long."""

ENDING_GRACE = 25.0
"""The same, in seconds, after SIGTERM or SIGHUP to the caller; Kubernetes kills it 30 s after SIGTERM."""

KILL_WAIT = 3.0
"""Seconds to wait for a killed process before the supervisor reports it and gives up."""

log: logging.Logger = logging.getLogger("procession")


class Stage(enum.Enum):
    """A stage of a stop, and what it does to the ranks that still run."""

    INTERRUPT = enum.auto()
    """Send SIGINT."""
    TERMINATE = enum.auto()
    """Send SIGTERM, but not to ranks that have reported a failure and so end by themselves."""
    TERMINATE_ALL = enum.auto()
    """Send SIGTERM to all that have not got it: those that should have ended by then, too."""
    KILL_DEAF = enum.auto()
    """Send SIGKILL to ranks that ignore or block SIGTERM."""
    KILL = enum.auto()
    """Send SIGKILL."""
    ABANDON = enum.auto()
    """Give up on ranks that SIGKILL did not end."""


class Stop:
    """One stop: when each `Stage` is due.

    `advance` carries out the stages that are due; ``deadline`` is when to call it next.

    Args:
        rank_states: all ranks of the launch.
        wait: seconds that the ranks have to end by themselves before SIGTERM.
        grace: seconds from SIGTERM to SIGKILL.
        interrupt: send SIGINT at once, before the wait.
        by: the signal that the caller got, if a signal began the stop, else 0.  A rank that has a handler
            for it gets it in place of SIGTERM.
        catching_grace: seconds from SIGTERM to SIGKILL for ranks that have a handler for SIGTERM, if that
            is longer than ``grace``.
    """

    def __init__(
        self,
        rank_states: Sequence[RankState],
        wait: float,
        grace: float,
        *,
        interrupt: bool = False,
        by: int = 0,
        catching_grace: float = 0,
    ) -> None:
        self._rank_states = rank_states
        self._by = by
        self._lock = RLock()
        self._abandoned: list[RankState] = []
        now = monotonic()
        term = now + wait
        kill = term + max(grace, catching_grace)
        due = {
            Stage.TERMINATE: term,
            Stage.TERMINATE_ALL: term + 2 * EXIT_BOUND,
            Stage.KILL: kill,
            Stage.ABANDON: kill + KILL_WAIT,
        }
        if catching_grace > grace:
            due[Stage.KILL_DEAF] = term + grace
        if interrupt:
            due[Stage.INTERRUPT] = now
        self._due: dict[Stage, float] = due

    @property
    def deadline(self) -> float:
        """When the next stage is due (`time.monotonic`)."""
        return min(list(self._due.values()), default=float("inf"))

    def advance(self, *, blocking: bool = True) -> bool:
        """Carry out the stages that are due; return False if another thread is at it.

        With ``blocking`` it waits for that thread instead.
        """
        if not self._lock.acquire(blocking=blocking):
            return False
        try:
            while (found := self._find_due()) is not None:
                stage, when = found
                self._act(stage, [each for each in self._rank_states if not each.ended])
                if self._due.get(stage) == when:  # only now: an exception must not skip the stage
                    self._due.pop(stage, None)
        finally:
            self._lock.release()
        return True

    def _find_due(self) -> tuple[Stage, float] | None:
        """Return a stage that is due, and since when: the earliest, then the first in `Stage`."""
        plan = list(self._due.items())  # a copy: a signal handler may change the plan
        now = monotonic()
        due = [(stage, when) for stage, when in plan if when <= now]
        return min(due, key=lambda item: (item[1], item[0].value), default=None)

    def take_abandoned(self) -> list[RankState]:
        """Return the ranks that no signal could end; each is returned once."""
        taken, self._abandoned = self._abandoned, []
        return taken

    def hasten(self, other: Stop) -> None:
        """Bring stages forward that another plan has earlier."""
        with self._lock:
            plan = list(self._due.items())
            due = {stage: min(when, other._due.get(stage, when)) for stage, when in plan}
            interrupted = any(signal.SIGINT in rank_state.sent for rank_state in self._rank_states)
            if Stage.INTERRUPT in other._due and not interrupted:
                due[Stage.INTERRUPT] = other._due[Stage.INTERRUPT]
            self._due = due

    def hurry(self) -> None:
        """Skip to SIGKILL."""
        with self._lock:
            now = monotonic()
            self._due = {Stage.KILL: now, Stage.ABANDON: now + KILL_WAIT}
            self.advance()

    def _act(self, stage: Stage, running: Iterable[RankState]) -> None:
        acts = {
            Stage.INTERRUPT: self._interrupt,
            Stage.TERMINATE: self._terminate,
            Stage.TERMINATE_ALL: self._terminate_all,
            Stage.KILL_DEAF: self._kill_deaf,
            Stage.KILL: self._kill,
            Stage.ABANDON: self._abandon,
        }
        acts[stage](running)

    def _interrupt(self, running: Iterable[RankState]) -> None:
        for rank_state in running:
            rank_state.stop(signal.SIGINT)

    def _terminate(self, running: Iterable[RankState]) -> None:
        self._terminate_all(rank_state for rank_state in running if not _is_leaving(rank_state))

    def _terminate_all(self, running: Iterable[RankState]) -> None:
        stopped = []
        for rank_state in running:
            if not rank_state.sent & {signal.SIGTERM, self._by} and rank_state.process.is_alive():
                number = self._by if self._by and rank_state.catches(self._by) else signal.SIGTERM
                stopped.append((rank_state.process.pid, name_signal(number)))
                rank_state.stop(number)
        for pid, name in stopped:  # logged last, so that no rank gets its signal late
            log.warning("Terminating process %s via signal %s", pid, name)

    def _kill_deaf(self, running: Iterable[RankState]) -> None:
        self._kill(rank_state for rank_state in running if not rank_state.heeds_termination())

    def _kill(self, running: Iterable[RankState]) -> None:
        for rank_state in running:
            if rank_state.process.is_alive():
                log.warning(
                    "Unable to shutdown process %s via SIGTERM , forcefully exiting via SIGKILL",
                    rank_state.process.pid,
                )
                rank_state.stop(9)

    def _abandon(self, running: Iterable[RankState]) -> None:
        for rank_state in running:
            state = state_of_process(rank_state.process)
            log.error("Process %s could not be killed (state %s)", rank_state.process.pid, state)
            rank_state.abandon(
                f"pid {rank_state.process.pid} could not be killed; its state is {state}"
            )
            self._abandoned.append(rank_state)


def _is_leaving(rank_state: RankState) -> bool:
    """Whether the rank has reported a failure, so that it ends by itself within `EXIT_BOUND`."""
    return rank_state.report is not None and rank_state.report.kind in ("raised", "exited")
