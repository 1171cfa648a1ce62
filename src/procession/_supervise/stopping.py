"""Ends the ranks of a launch: a plan of signals and deadlines that whoever waits carries forward."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from procession._linux.signals import name_signal
from procession._python.unpatched import RLock
from procession._rank.life import EXIT_BOUND
from procession._supervise.rank_state import RankState
from procession._supervise.stack_dump import state_of_process

DEFAULT_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL where the caller gives no grace period."""

CATCHING_GRACE = 30.0
"""The same after a failure for ranks that have a handler for SIGTERM: torch's."""

ENDING_GRACE = 25.0
"""The same where the caller has been asked to end: Kubernetes kills it 30 s after SIGTERM."""

KILL_WAIT = 3.0
"""Seconds to wait for a killed process before it is named and abandoned."""

log: logging.Logger = logging.getLogger("procession")

Act = Callable[[Iterable[RankState]], None]
Step = tuple[float, Act]


class Stop:
    """The stages of one stop.  `advance` does what is due; ``deadline`` is when to call it next.

    ``wait`` is how long (seconds) the ranks may end by themselves before SIGTERM, ``grace`` how long
    they have from then until SIGKILL.  An ``interrupt`` sends SIGINT at once, before the wait.  ``by`` is
    the signal that the caller got, if one has begun the stop: a rank that has a handler for it gets
    that one in place of SIGTERM.  Ranks that have a handler for SIGTERM have ``catching_grace``, if that
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
        now = time.monotonic()
        term = now + wait
        steps: list[Step] = [
            (term, self._terminate),
            (term + 2 * EXIT_BOUND, self._terminate_all),  # those that should have left by then
            (term + max(grace, catching_grace), self._kill),
            (term + max(grace, catching_grace) + KILL_WAIT, self._abandon),
        ]
        if catching_grace > grace:
            steps.append((term + grace, self._kill_deaf))
        if interrupt:
            steps.insert(0, (now, self._interrupt))
        self._steps: list[Step] = sorted(steps, key=lambda step: step[0])

    @property
    def deadline(self) -> float:
        """When `advance` has something to do next (`time.monotonic`)."""
        return min((due for due, _ in list(self._steps)), default=float("inf"))

    def advance(self) -> None:
        """Do what is due."""
        with self._lock:
            while self._steps and time.monotonic() >= self.deadline:
                step = self._steps[0]
                step[1]([rank_state for rank_state in self._rank_states if not rank_state.ended])
                if step in self._steps:  # last, lest an exception leave it undone
                    self._steps.remove(step)

    def take_abandoned(self) -> list[RankState]:
        """Return, once, the ranks that no signal could end."""
        taken, self._abandoned = self._abandoned, []
        return taken

    def hasten(self, other: Stop) -> None:
        """Take over what another plan would do earlier."""
        with self._lock:
            due = {act.__name__: when for when, act in other._steps}
            steps: list[Step] = [
                (min(when, due.get(act.__name__, when)), act) for when, act in self._steps
            ]
            interrupted = any(signal.SIGINT in rank_state.sent for rank_state in self._rank_states)
            interrupt: Act = self._interrupt
            if interrupt.__name__ in due and not interrupted:
                steps.append((due[interrupt.__name__], interrupt))
            self._steps = sorted(steps, key=lambda step: step[0])

    def hurry(self) -> None:
        """Skip to SIGKILL."""
        with self._lock:
            now = time.monotonic()
            self._steps = [(now, self._kill), (now + KILL_WAIT, self._abandon)]
            self.advance()

    def _interrupt(self, alive: Iterable[RankState]) -> None:
        for rank_state in alive:
            rank_state.stop(signal.SIGINT)

    def _terminate(self, alive: Iterable[RankState]) -> None:
        self._terminate_all(rank_state for rank_state in alive if not _is_leaving(rank_state))

    def _terminate_all(self, alive: Iterable[RankState]) -> None:
        stopped = []
        for rank_state in alive:
            if not rank_state.sent & {signal.SIGTERM, self._by} and rank_state.process.is_alive():
                number = self._by if self._by and rank_state.catches(self._by) else signal.SIGTERM
                stopped.append((rank_state.process.pid, name_signal(number)))
                rank_state.stop(number)
        for pid, name in stopped:  # afterwards: they end meanwhile
            log.warning("Terminating process %s via signal %s", pid, name)

    def _kill_deaf(self, alive: Iterable[RankState]) -> None:
        self._kill(rank_state for rank_state in alive if not rank_state.heeds_termination())

    def _kill(self, alive: Iterable[RankState]) -> None:
        for rank_state in alive:
            if rank_state.process.is_alive():
                log.warning(
                    "Unable to shutdown process %s via SIGTERM , forcefully exiting via SIGKILL",
                    rank_state.process.pid,
                )
                rank_state.stop(9)

    def _abandon(self, alive: Iterable[RankState]) -> None:
        for rank_state in alive:
            state = state_of_process(rank_state.process)
            log.error("Process %s could not be killed (state %s)", rank_state.process.pid, state)
            rank_state.abandon(
                f"pid {rank_state.process.pid} could not be killed; its state is {state}"
            )
            self._abandoned.append(rank_state)


def _is_leaving(rank_state: RankState) -> bool:
    """Whether the rank has reported a failure, so that it ends by itself within `EXIT_BOUND`."""
    return rank_state.report is not None and rank_state.report.kind in ("raised", "exited")
