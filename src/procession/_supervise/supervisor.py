"""The ranks of one launch under supervision: waits on all of them, and ends them all when one fails.

The gang knows processes, sentinels and channels, and nothing of who started them or who waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from operator import itemgetter

from procession._linux.procstat import is_ending
from procession._python import unpatched
from procession._supervise import launches, oom
from procession._supervise.rank_state import RankState
from procession._supervise.stack_dump import collect_stacks
from procession._supervise.stopping import CATCHING_GRACE, DEFAULT_GRACE, ENDING_GRACE, Stop
from procession._supervise.verdict import ABORTED, sort_failures
from procession._supervise.waiter import HandleWaiter, Key, SelectorWaiter, make_waiter
from procession.failure import Failure
from procession.protocol import Launch, Sentinel, Started

_NEVER = float("inf")
_LONGEST_WAIT = (
    86_400.0  # seconds: selectors and locks refuse far longer ones; who waits asks again
)

SETTLING = 0.3
"""Seconds for which the cause of an abort may still show itself."""

_LONGEST_SETTLING = 2.0  # the same, where a rank is seen to end: whoever is to tell it may be busy
_LOOK = 0.02  # seconds between looks at ranks that are


class Supervisor:
    """All ranks of a launch.  Whoever waits drives it: `run` from any thread, `step` from a loop."""

    def __init__(self, launch: Launch, started: Started, oom_kills: dict[str, int]) -> None:
        self.launch = launch
        self.rank_states: list[RankState] = [
            RankState(rank, *handles)
            for rank, handles in enumerate(
                zip(started.processes, started.sentinels, started.error_channels, strict=True)
            )
        ]
        self.sentinels: dict[Sentinel, int] = {one.sentinel: one.rank for one in self.rank_states}
        self.finished: bool = False
        self.timed_out: list[int] = []
        self.stacks: dict[int, str] = {}  # of the ranks that ran when the deadline passed
        self.failed: bool = False
        self.grace_period: float | None = launch.grace_period
        self.deadline: float = (
            _NEVER if launch.timeout is None else time.monotonic() + launch.timeout
        )
        self.waiter: SelectorWaiter | HandleWaiter = make_waiter()
        self._owner = os.getpid()
        self._running = set(range(launch.nprocs))
        self._watchers: set[Callable[[], None]] = set()
        self._stop: Stop | None = None
        self._on_failure, self._on_finish = started.on_failure, started.on_finish
        self._oom_kills = oom_kills
        self._evidence: str | None = None
        self._lock = unpatched.RLock()  # held by whoever waits
        self._stop_lock = unpatched.RLock()  # a signal handler may ask for a stop during one
        self._stacks_lock = unpatched.RLock()
        for rank_state in self.rank_states:
            self.waiter.add(rank_state.sentinel, ("sentinel", rank_state.rank))
            if hasattr(rank_state.channel, "fileno"):
                self.waiter.add(rank_state.channel, ("channel", rank_state.rank))

    def run(
        self,
        until: float = _NEVER,
        grace_period: float | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> bool:
        """Supervise until all ranks have ended; return whether they have.

        Args:
            until: when to return in any case, unless the ranks are being stopped.
            grace_period: replaces the launch's if it is not None.
            enough: returns whether to return now, unless the ranks are being stopped.
        """
        self._check_owner()
        if grace_period is not None:
            self.grace_period = grace_period
        while not self.finished:
            if enough is not None and self._stop is None and enough():
                break
            patience = _seconds_until(until)
            if not unpatched.acquire(self._lock, -1 if patience is None else patience):
                if time.monotonic() < until:
                    continue
                return self.finished
            try:
                if not self.finished:
                    self.step(until if self._stop is None else _NEVER)
            finally:
                self._lock.release()
            if self._stop is None and time.monotonic() >= until:
                break
        return self.finished

    def step(self, until: float) -> None:
        """Wait for the next event, at most until a time or what else is due, and act on it."""
        with self._lock:
            if self._running:
                self._take(self.waiter.wait(_seconds_until(min(until, self.next_deadline()))))
            if not self.finished:  # a signal handler may have seen to it meanwhile
                self._react()

    def try_step(self) -> bool:
        """Act on what has happened; return False where another thread is at it."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self.step(0)
        finally:
            self._lock.release()
        return True

    def watch(self, call: Callable[[], None]) -> None:
        """Have a function called, from any thread, whenever something has happened."""
        self._watchers.add(call)

    def unwatch(self, call: Callable[[], None]) -> None:
        """Undo `watch`."""
        self._watchers.discard(call)

    def next_deadline(self) -> float:
        """When something is due even if nothing happens (`time.monotonic`)."""
        if not self._running:  # what `_finish` could not do
            return 0.0
        return self.deadline if self._stop is None else self._stop.deadline

    def stop(
        self, grace_period: float | None = None, *, interrupt: bool = False, by: int = 0
    ) -> None:
        """Begin to stop all ranks at the caller's wish; whoever waits carries it through.

        Args:
            grace_period: seconds from SIGTERM to SIGKILL; None: the launch's.
            interrupt: send SIGINT first, and SIGTERM only after the grace period.
            by: the signal that asked the caller to end, if one has; it is passed on.
        """
        self._check_owner()
        given = self.grace_period if grace_period is None else grace_period
        grace = given if given is not None else ENDING_GRACE if by else DEFAULT_GRACE
        wait = grace if interrupt else 0
        self._begin(Stop(self.rank_states, wait, grace, interrupt=interrupt, by=by))
        self.waiter.wake()

    def signal(self, number: int) -> None:
        """Send a signal to all ranks that run, where they can be signalled."""
        for rank in sorted(self._running):
            send = getattr(self.rank_states[rank].process, "send_signal", None)
            if send is not None:
                send(number)

    def extend(self, seconds: float) -> None:
        """Move the deadline: for so long this process was suspended."""
        self.deadline += seconds

    def hurry(self) -> None:
        """Kill all ranks now."""
        self.stop(0)
        if self._stop is not None:
            self._stop.hurry()

    def collect_stacks(self) -> dict[int, str]:
        """Return the stacks of the ranks that run, by rank."""
        self._check_owner()
        with self._stacks_lock:
            return collect_stacks([self.rank_states[rank] for rank in sorted(self._running)])

    def failures(self) -> list[Failure]:
        """Return the failures there are, the root cause first."""
        found = [
            rank_state.failure(self.launch.allow_early_exit) for rank_state in self.rank_states
        ]
        told = [self._with_evidence(one) for one in found if one is not None]
        return sort_failures([one._replace(stacks=self.stacks.get(one.rank, "")) for one in told])

    def _take(self, keys: list[Key]) -> None:
        """Note what has happened.  Channels come first: a report says more than the exit after it.

        Else the order is that of `SelectorWaiter.wait`, which is the kernel's: as it happened.
        """
        for kind, rank in sorted(keys, key=itemgetter(0)):
            rank_state = self.rank_states[rank]
            if rank not in self._running:  # an exception came between its end and its dismissal
                self._dismiss(rank_state)
                continue
            if kind == "channel":
                if not rank_state.take_report():
                    self.waiter.discard(("channel", rank))
            else:
                if rank_state.report is None:
                    rank_state.take_report()
                rank_state.note_end()
                self._dismiss(rank_state)
            self.failed |= rank_state.failure(self.launch.allow_early_exit) is not None
        if keys:
            self._tell_watchers()

    def _dismiss(self, rank_state: RankState) -> None:
        """Let go of a rank that has ended.  Doing it twice does no harm."""
        self._running.discard(rank_state.rank)
        self.waiter.discard(("sentinel", rank_state.rank))
        self.waiter.discard(("channel", rank_state.rank))
        rank_state.close()

    def _react(self) -> None:
        fails = self.failed and self.launch.fail_fast
        if self._stop is None and self._running and (fails or self._is_late()):
            self._settle()
            if not self.failed:
                self._note_hang()
            self._begin(self._plan_stop())
        if self._stop is not None:
            self._stop.advance()
            for rank_state in self._stop.take_abandoned():
                self._dismiss(rank_state)
        if not self._running:
            self._finish()

    def _plan_stop(self) -> Stop:
        """Return how to stop the ranks after a failure, or at the deadline."""
        given = self.grace_period
        if given is not None:
            return Stop(self.rank_states, given, given)
        catching = CATCHING_GRACE if self.failed else 0
        return Stop(self.rank_states, 0, DEFAULT_GRACE, catching_grace=catching)

    def _settle(self) -> None:
        """Note what has happened by now, which is nobody's doing but the ranks' own.

        Where all that has failed was aborted, what it reacted to may still be about to happen: a process's
        connections are closed before its end can be seen.
        """
        self._take(self.waiter.wait(0))
        begun = time.monotonic()
        while self._running and self._all_aborted():
            passed = time.monotonic() - begun
            if passed > _LONGEST_SETTLING or (passed > SETTLING and not self._is_any_ending()):
                break
            self._take(self.waiter.wait(max(SETTLING - passed, _LOOK)))

    def _is_any_ending(self) -> bool:
        """Whether one that runs is seen to end, on this machine."""
        rank_states = [self.rank_states[rank] for rank in self._running]
        return any(is_ending(one.process.pid) for one in rank_states if not one.is_remote)

    def _all_aborted(self) -> bool:
        """Whether ranks have failed, and all of these by SIGABRT."""
        found = [
            rank_state.failure(self.launch.allow_early_exit) for rank_state in self.rank_states
        ]
        names = {one.signal_name for one in found if one is not None}
        return bool(names) and names <= ABORTED

    def _note_hang(self) -> None:
        """Note which ranks the deadline found running, and where."""
        self.timed_out = sorted(self._running)
        self.stacks = self.collect_stacks()

    def _is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def _begin(self, stop: Stop) -> None:
        with self._stop_lock:
            if self.finished:
                return
            if self._stop is None:
                self._stop = stop
            else:
                self._stop.hasten(stop)
            self._stop.advance()
        self._tell_watchers()

    def _finish(self) -> None:
        """Do what remains once all ranks have ended.

        What an exception cuts short (an interrupt, a signal handler's) the next to come does again:
        until it is done the launch has not finished, for anybody.
        """
        if self._evidence is None and any(
            rank_state.exitcode == -9 for rank_state in self.rank_states
        ):
            self._evidence = oom.tell_kills(self._oom_kills)
        for rank_state in self.rank_states:  # an exception may have cut short what this does
            self._dismiss(rank_state)
        if self._on_failure is not None and (self.failed or self._stop is not None):
            self._on_failure()
        if self._on_finish is not None and not self.finished:  # a handler may have seen to it
            self._on_finish()
        self.sentinels.clear()  # a caller may wait for them
        self.waiter.wake()  # so may a thread
        for rank_state in self.rank_states:
            rank_state.release()
        self.waiter.close()
        self.finished = True
        launches.settle(self)
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for call in list(self._watchers):
            call()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"this context belongs to process {self._owner}: a fork of it cannot wait for its ranks"
            )

    def _with_evidence(self, failure: Failure) -> Failure:
        if failure.signal_name != "SIGKILL" or failure.collateral:
            return failure
        if failure.host:  # this process's counters say nothing of it
            process = self.rank_states[failure.rank].process
            return failure._replace(evidence=getattr(process, "evidence", ""))
        return failure._replace(evidence=self._evidence or oom.tell_kills(self._oom_kills))


def _seconds_until(moment: float) -> float | None:
    if moment == _NEVER:
        return None
    return min(max(moment - time.monotonic(), 0), _LONGEST_WAIT)
