"""The ranks of one launch under supervision: waits on all of them, and ends them all when one fails.

The gang knows processes, sentinels and channels, and nothing of who started them or who waits.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from procession import oom
from procession.exceptions import Failure
from procession.member import Member
from procession.protocol import Launch, Started
from procession.stopping import DEFAULT_GRACE, Stop
from procession.verdict import sort_failures
from procession.waiter import Key, make_waiter

_NEVER = float("inf")


class Gang:
    """All ranks of a launch.  Whoever waits drives it: `run` from any thread, `step` from a loop."""

    def __init__(self, launch: Launch, started: Started, oom_kills: dict[str, int]) -> None:
        self.launch = launch
        self.members = [
            Member(rank, *handles)
            for rank, handles in enumerate(
                zip(started.processes, started.sentinels, started.error_channels, strict=True)
            )
        ]
        self.finished = False
        self.requested = False  # a stop that the caller asked for
        self.timed_out: list[int] = []
        self.deadline = _NEVER if launch.timeout is None else time.monotonic() + launch.timeout
        self.waiter = make_waiter()
        self._alive = launch.nprocs
        self._stop: Stop | None = None
        self._on_finish = started.on_finish
        self._oom_kills = oom_kills
        self._evidence: str | None = None
        self._failed = False
        self._lock = threading.RLock()  # held by whoever waits
        self._stop_lock = threading.Lock()
        for member in self.members:
            self.waiter.add(member.sentinel, ("sentinel", member.rank))
            self.waiter.add(member.channel, ("channel", member.rank))

    def run(self, until: float, grace_period: float | None) -> bool:
        """Supervise until all ranks have ended, or until a time if nothing has failed by then."""
        while not self.finished:
            left = until - time.monotonic()
            if not self._lock.acquire(timeout=-1 if until == _NEVER else max(left, 0)):
                return self.finished
            try:
                if not self.finished:
                    self.step(until if self._stop is None else _NEVER, grace_period)
            finally:
                self._lock.release()
            if self._stop is None and time.monotonic() >= until:
                break
        return self.finished

    def step(self, until: float, grace_period: float | None = None) -> None:
        """Wait for the next event, at most until a time or what else is due, and act on it."""
        with self._lock:
            if self.finished:
                return
            self._take(self.waiter.wait(_seconds_until(min(until, self.next_deadline()))))
            self._react(grace_period)

    def try_step(self) -> None:
        """Act on what has happened, unless another thread is at it."""
        if self._lock.acquire(blocking=False):
            try:
                self.step(0)
            finally:
                self._lock.release()

    def is_waited_for(self) -> bool:
        """Whether a thread is waiting for events at this moment."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return False
        return True

    def next_deadline(self) -> float:
        """When something is due even if nothing happens (`time.monotonic`)."""
        return self.deadline if self._stop is None else self._stop.deadline

    def stop(self, grace_period: float | None = None, *, interrupt: bool = False) -> None:
        """Begin to stop all ranks at the caller's wish; whoever waits carries it through."""
        self.requested = True
        grace = DEFAULT_GRACE if grace_period is None else grace_period
        self._begin(Stop(self.members, grace if interrupt else 0, grace, interrupt=interrupt))
        self.waiter.wake()

    def hurry(self) -> None:
        """Kill all ranks now."""
        self.stop(0)
        if self._stop is not None:
            self._stop.hurry()

    def failures(self) -> list[Failure]:
        """Return the failures there are, the root cause first."""
        found = [member.failure(self.launch.allow_early_exit) for member in self.members]
        return sort_failures([self._with_evidence(one) for one in found if one is not None])

    def _take(self, keys: list[Key]) -> None:
        """Note what has happened.  Channels come first: a report says more than the exit after it."""
        for kind, rank in sorted(keys):
            member = self.members[rank]
            if member.ended:
                continue
            if kind == "channel":
                if not member.take_report():
                    self.waiter.discard(("channel", rank))
            else:
                if member.report is None:
                    member.take_report()
                member.note_end()
                self._dismiss(member)
            self._failed |= member.failure(self.launch.allow_early_exit) is not None

    def _dismiss(self, member: Member) -> None:
        self.waiter.discard(("sentinel", member.rank))
        self.waiter.discard(("channel", member.rank))
        member.channel.close()
        release = getattr(member.process, "release", None)
        if release is not None:
            release()
        self._alive -= 1

    def _react(self, grace_period: float | None) -> None:
        if self._stop is None and self._alive and (self._failed or self._is_late()):
            self._take(self.waiter.wait(0))  # what has happened by now is nobody's doing but theirs
            if not self._failed:
                self.timed_out = [member.rank for member in self.members if not member.ended]
            given = self.launch.grace_period if grace_period is None else grace_period
            self._begin(Stop(self.members, given or 0, DEFAULT_GRACE if given is None else given))
        if self._stop is not None:
            self._stop.advance()
            for member in self._stop.take_abandoned():
                self._dismiss(member)
        if not self._alive:
            self._finish()

    def _is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def _begin(self, stop: Stop) -> None:
        with self._stop_lock:
            if self._stop is None and not self.finished:
                self._stop = stop
                stop.advance()

    def _finish(self) -> None:
        self.finished = True
        if any(member.exitcode == -9 for member in self.members):
            self._evidence = oom.tell_kills(self._oom_kills)
        self.waiter.close()
        if self._on_finish is not None:
            self._on_finish()

    def _with_evidence(self, failure: Failure) -> Failure:
        if failure.signal_name != "SIGKILL" or failure.collateral:
            return failure
        return replace(failure, evidence=self._evidence or oom.tell_kills(self._oom_kills))


def _seconds_until(moment: float) -> float | None:
    return None if moment == _NEVER else max(moment - time.monotonic(), 0)
