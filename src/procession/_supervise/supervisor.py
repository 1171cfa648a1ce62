"""Supervises the ranks of one launch: waits for all of them, and stops the others when one fails.

The supervisor knows processes, sentinels and channels.  It does not know which backend started them, nor
which thread waits for them.  Data flows as follows:

|============ caller ============|=================== Supervisor ===================|====== ranks ======|

 join, wait, results ──> run ──────┐
 await, supervise=True,            ├─> step
 interpreter exit ──> try_step ────┘     │
                                         ├─ waiter.wait <──── sentinels, channels <──── ends, reports
                                         ├─ _take ──> RankState: report, exit code
 terminate, interrupt,                   ├─ _react to a failure or the deadline ──┐
 signal handlers ──> stop, hurry ────────┼────────────────────────────────────────┴─> Stop ──> signals
                                         └─ _finish after the last end ──> on_failure, on_finish, release

 exception <── make_exception <── failures, root cause first <── RankState
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter

from procession._linux.procstat import is_ending
from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.deadlines import seconds_until
from procession._python.log import debug
from procession._supervise import launches, oom
from procession._supervise.rank_state import RankState
from procession._supervise.stack_dump import collect_stacks
from procession._supervise.stopping import CATCHING_GRACE, DEFAULT_GRACE, ENDING_GRACE, Stop
from procession._supervise.verdict import ABORTED, sort_failures
from procession._supervise.waiter import HandleWaiter, Key, SelectorWaiter, make_waiter
from procession.failure import Failure
from procession.protocol import Launch, Sentinel, Started

_NEVER = float("inf")

SETTLING = 0.3
"""Seconds to wait for the cause of an abort to become visible."""

_LONGEST_SETTLING = 2.0  # the same while `/proc` shows that a rank is ending
_LOOK = 0.02  # seconds between looks at ending ranks, and at a stop that another thread holds
_STACKS_PATIENCE = 5.0  # seconds for another thread, perhaps below a handler, to collect stacks


# Concurrency
#
# Any thread may call any method, and so may a signal handler, which Python runs in the main thread between
# two instructions of whatever that thread does: perhaps of this class.  No thread belongs to a supervisor:
# the thread that calls `run`, `step` or `try_step` does the work.
#
# `_lock` is held for a whole step, including the wait in the kernel, so that one thread at a time takes
# events and reacts.  `stop` and `hurry` never wait for it: they change the plan `_stop` under `_stop_lock`,
# send the signals that are due, and wake the thread that waits.  `signal` and `extend` need no lock.
# `_stacks_lock` lets one thread at a time collect stacks.  The order of the locks is `_lock`, `_stop_lock`,
# then that of `Stop`.  A handler that waits for ranks while its thread is inside `stop` breaks this order:
# its thread holds the plan, and wants `_lock`.  So a step never blocks for the plan: the thread that holds
# the plan carries it out, and the step looks again a moment later, releasing `_lock` in between.
#
# All of them are re-entrant, because a handler that stops or joins a launch may interrupt the very thread
# that holds the lock; with a plain lock that thread would wait for itself for ever.  So a lock excludes
# other threads, but neither a handler nor another greenlet of the same thread.  That is safe because every
# step is idempotent: it reads the state anew and does what is due.  A handler may run the launch to its end
# in the middle of a step; the step then finds nothing left to do.  An exception (KeyboardInterrupt, or one
# that a handler raises) may end a step anywhere; the next step does the rest.  Dismissing a rank, carrying
# out a stage of a stop and calling `on_finish` may each happen twice, and `finished` is set only when all is
# done.  The locks are `_thread.RLock`: written in C, so that a handler never sees one half acquired
# (https://bugs.python.org/issue13697), and replaced by neither gevent nor eventlet.
class Supervisor:
    """All ranks of one launch.

    It has no thread: callers drive it with `run`, or with `try_step` from a loop.
    """

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
        self.stacks: dict[int, str] = {}  # of ranks still running at the deadline
        self.failed: bool = False
        self.grace_period: float | None = launch.grace_period
        self.deadline: float = _NEVER if launch.timeout is None else monotonic() + launch.timeout
        self.waiter: SelectorWaiter | HandleWaiter = make_waiter()
        self._owner = os.getpid()
        self._running = set(range(launch.nprocs))
        self._watchers: set[Callable[[], None]] = set()
        self._stop: Stop | None = None
        self._on_failure, self._on_finish = started.on_failure, started.on_finish
        self._oom_kills = oom_kills
        self._evidence: str | None = None
        self._lock = unpatched.RLock()
        self._stop_lock = unpatched.RLock()
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

        Once the ranks are being stopped, neither ``until`` nor ``enough`` ends the wait.

        Args:
            until: when to return in any case (`time.monotonic`).
            grace_period: replaces the launch's if it is not None.
            enough: called between steps; true means to return now.
        """
        self._check_owner()
        if grace_period is not None:
            self.grace_period = grace_period
        while not self.finished:
            if enough is not None and self._stop is None and enough():
                break
            patience = _seconds_until(until)
            if not unpatched.acquire(self._lock, -1 if patience is None else patience):
                if monotonic() < until:
                    continue
                return self.finished
            try:
                if not self.finished:
                    self.step(until if self._stop is None else _NEVER)
            finally:
                self._lock.release()
            if self._stop is None and monotonic() >= until:
                break
        return self.finished

    def step(self, until: float) -> None:
        """Wait for the next event or deadline, at most until a time, and act on it."""
        with self._lock:
            if self._running:
                self._take(self.waiter.wait(_seconds_until(min(until, self.next_deadline()))))
            if not self.finished:
                self._react()

    def try_step(self) -> bool:
        """Act on events without waiting; return False if another thread is in a step."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self.step(0)
        finally:
            self._lock.release()
        return True

    def watch(self, call: Callable[[], None]) -> None:
        """Register a function to call after each change, from the thread that makes the change."""
        self._watchers.add(call)

    def unwatch(self, call: Callable[[], None]) -> None:
        """Undo `watch`."""
        self._watchers.discard(call)

    def next_deadline(self) -> float:
        """Return when to step even without an event (`time.monotonic`)."""
        if not self._running:  # an exception cut `_finish` short
            return 0.0
        return self.deadline if self._stop is None else self._stop.deadline

    def stop(
        self, grace_period: float | None = None, *, interrupt: bool = False, by: int = 0
    ) -> None:
        """Begin to stop all ranks; the thread that waits carries it through.

        Args:
            grace_period: seconds from SIGTERM to SIGKILL; None: the launch's.
            interrupt: send SIGINT first, and SIGTERM only after the grace period.
            by: the signal that asked the caller to end, or 0.  Ranks with a handler for it get it in place
                of SIGTERM.
        """
        self._check_owner()
        given = self.grace_period if grace_period is None else grace_period
        grace = given if given is not None else ENDING_GRACE if by else DEFAULT_GRACE
        wait = grace if interrupt else 0
        self._begin(Stop(self.rank_states, wait, grace, interrupt=interrupt, by=by))
        self.waiter.wake()

    def signal(self, number: int) -> None:
        """Send a signal to all running ranks that can be signalled."""
        for rank in sorted(self._running):
            send = getattr(self.rank_states[rank].process, "send_signal", None)
            if send is not None:
                send(number)

    def extend(self, seconds: float) -> None:
        """Extend the deadline by the time for which this process was suspended."""
        self.deadline += seconds

    def hurry(self) -> None:
        """Kill all ranks now."""
        self.stop(0)
        if self._stop is not None:
            self._stop.hurry()

    def collect_stacks(self) -> dict[int, str]:
        """Return the stacks of the running ranks, by rank."""
        self._check_owner()
        with self._stacks_lock:
            return collect_stacks([self.rank_states[rank] for rank in sorted(self._running)])

    def failures(self) -> list[Failure]:
        """Return the failures so far, the root cause first."""
        found = [
            rank_state.failure(self.launch.allow_early_exit) for rank_state in self.rank_states
        ]
        failures = [self._with_evidence(one) for one in found if one is not None]
        return sort_failures(
            [one._replace(stacks=self.stacks.get(one.rank, "")) for one in failures]
        )

    def _take(self, keys: list[Key]) -> None:
        """Record events: channels first, since a report says more than the exit that follows it.

        Otherwise the order is that of `SelectorWaiter.wait`, which is the kernel's order of events.
        """
        for kind, rank in sorted(keys, key=itemgetter(0)):
            rank_state = self.rank_states[rank]
            if rank not in self._running:  # its dismissal was cut short
                self._dismiss(rank_state)
                continue
            if kind == "channel":
                if not rank_state.take_report():
                    self.waiter.discard(("channel", rank))
                    if rank_state.report is not None:
                        debug("%s: rank %d %s", self.launch.name, rank, rank_state.report.kind)
            else:
                if rank_state.report is None:
                    rank_state.take_report()
                rank_state.note_end()
                self._dismiss(rank_state)
                debug("%s: rank %d ended (%s)", self.launch.name, rank, rank_state.exitcode)
            self.failed |= rank_state.failure(self.launch.allow_early_exit) is not None
        if keys:
            self._notify_watchers()

    def _dismiss(self, rank_state: RankState) -> None:
        """Stop waiting for a rank that has ended.  Idempotent."""
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
            advanced = self._begin(self._plan_stop(), blocking=False)
        elif self._stop is not None:
            advanced = self._stop.advance(blocking=False)
        else:
            advanced = True
        if self._stop is not None:
            for rank_state in self._stop.take_abandoned():
                self._dismiss(rank_state)
        if not self._running:
            self._finish()
        elif not advanced:
            unpatched.sleep(_LOOK)
            self.waiter.wake()

    def _plan_stop(self) -> Stop:
        """Return how to stop the ranks after a failure, or at the deadline."""
        given = self.grace_period
        if given is not None:
            return Stop(self.rank_states, given, given)
        catching = CATCHING_GRACE if self.failed else 0
        return Stop(self.rank_states, 0, DEFAULT_GRACE, catching_grace=catching)

    def _settle(self) -> None:
        """Collect events that precede our own signals.

        If all failed ranks were aborted, the failure that they reacted to may not be visible yet: the
        kernel closes the connections of a process before its end can be seen.
        """
        self._take(self.waiter.wait(0))
        begun = monotonic()
        while self._running and self._all_aborted():
            passed = monotonic() - begun
            if passed > _LONGEST_SETTLING or (passed > SETTLING and not self._is_any_ending()):
                break
            self._take(self.waiter.wait(max(SETTLING - passed, _LOOK)))

    def _is_any_ending(self) -> bool:
        """Whether `/proc` shows that a running rank of this machine is ending."""
        rank_states = [self.rank_states[rank] for rank in self._running]
        return any(is_ending(one.process.pid) for one in rank_states if not one.is_remote)

    def _all_aborted(self) -> bool:
        """Whether ranks have failed, and all of them by SIGABRT."""
        found = [
            rank_state.failure(self.launch.allow_early_exit) for rank_state in self.rank_states
        ]
        names = {one.signal_name for one in found if one is not None}
        return bool(names) and names <= ABORTED

    def _note_hang(self) -> None:
        """Record which ranks still run at the deadline, and their stacks."""
        self.timed_out = sorted(self._running)
        if unpatched.acquire(self._stacks_lock, _STACKS_PATIENCE):
            try:
                self.stacks = self.collect_stacks()
            finally:
                self._stacks_lock.release()

    def _is_late(self) -> bool:
        return monotonic() >= self.deadline

    def _begin(self, stop: Stop, *, blocking: bool = True) -> bool:
        """Begin a stop, or hasten the one there is; return False if another thread is at it."""
        if not self._stop_lock.acquire(blocking=blocking):
            return False
        try:
            if self.finished:
                return True
            debug("%s: stopping ranks %s", self.launch.name, sorted(self._running))
            if self._stop is None:
                self._stop = stop
            elif blocking:
                self._stop.hasten(stop)
            advanced = self._stop.advance(blocking=blocking)
        finally:
            self._stop_lock.release()
        self._notify_watchers()
        return advanced

    def _finish(self) -> None:
        """Clean up once all ranks have ended.

        If an exception cuts this short, the next step repeats it.
        """
        if self._evidence is None and any(
            rank_state.exitcode == -9 for rank_state in self.rank_states
        ):
            self._evidence = oom.tell_kills(self._oom_kills)
        for rank_state in self.rank_states:
            self._dismiss(rank_state)
        if self._on_failure is not None and (self.failed or self._stop is not None):
            self._on_failure()
        if self._on_finish is not None and not self.finished:
            self._on_finish()
        self.sentinels.clear()  # callers may wait for an empty dict
        self.waiter.wake()  # other threads may be in `wait`
        for rank_state in self.rank_states:
            rank_state.release()
        self.waiter.close()
        debug("%s: all ranks have ended and are reaped", self.launch.name)
        self.finished = True
        launches.settle(self)
        self._notify_watchers()

    def _notify_watchers(self) -> None:
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
        if failure.host:  # the counters of this machine say nothing about another host
            process = self.rank_states[failure.rank].process
            return failure._replace(evidence=getattr(process, "evidence", ""))
        return failure._replace(evidence=self._evidence or oom.tell_kills(self._oom_kills))


def _seconds_until(moment: float) -> float | None:
    if moment == _NEVER:
        return None
    return seconds_until(moment)
