"""Backends that are each wrong in one way, and the tests of the kit that must find it, and no others."""

from __future__ import annotations

import os
import pickle
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from procession import Availability, Launch, Report, Started
from procession.backends.fork import ForkBackend
from procession.backends.spawn import SpawnBackend

kept: list[Any] = []
MANY = 12
"""The ranks of a launch that only one test has, `test_one_rank_and_many`."""


class Sound(ForkBackend):
    """Not wrong at all: what the others would be without their one fault."""

    name = "sound"
    capabilities = ForkBackend().capabilities
    fails: ClassVar[set[str]] = set()

    def availability(self) -> Availability:
        return ForkBackend().availability()


class Far(Sound):
    """May have ranks elsewhere, it says."""

    capabilities = Sound.capabilities._replace(remote=True)


class Around:
    """Stands around a process or a channel, and changes one thing about it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class Call:
    """Stands around fn."""

    fn: Callable[..., Any]
    nprocs: int

    def __call__(self, rank: int, *args: Any) -> Any:
        return self.fn(rank, *args)


class WrongProcess(Sound):
    """Starts sound ranks, and gives back other processes."""

    wrap: Callable[[Any], Any] = Around

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        return started._replace(processes=[type(self).wrap(one) for one in started.processes])


class WrongCall(Sound):
    """Starts ranks that call fn in another way."""

    wrap: type[Call] = Call

    def start(self, launch: Launch) -> Started:
        return super().start(launch._replace(fn=self.wrap(launch.fn, launch.nprocs)))


def swallow(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function, whatever it raises."""
    try:
        return call(*args)
    except BaseException:
        return None


def faults(*names: str) -> set[str]:
    return {f"test_rank_fault[{name}]" for name in names}


# What the seam's own tests find


class NoCode(Around):
    @property
    def exitcode(self) -> int | None:
        return None if self.inner.is_alive() else 0


class LosesTheExitCode(WrongProcess):
    wrap = NoCode
    fails = {
        "test_exit_codes_are_told",
        "test_one_rank_can_be_terminated",
        *faults("_exit 7", "C exit 7", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGPIPE"),
        *faults("real-time", "fork, exit 7", "stranger, SIGKILL"),
    }


class ClaimsNoCode(LosesTheExitCode):
    """Says so, and is not held to it."""

    capabilities = Sound.capabilities._replace(signals=False, exit_codes=False)
    fails = set()


class NoSentinel(Sound):
    fails = {"test_a_sentinel_is_readable_once_its_process_has_ended"}

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        pipes = [os.pipe() for _ in started.processes]
        kept.extend(pipes)
        return started._replace(sentinels=[reader for reader, _ in pipes])


class Swallow(Call):
    def __call__(self, rank: int, *args: Any) -> Any:
        return swallow(self.fn, rank, *args)


class SwallowsTheError(WrongCall):
    wrap = Swallow
    fails = {
        "test_a_failure_is_reported",
        "test_a_failure_is_reported_before_its_process_ends",
    }


class Reverse(Call):
    def __call__(self, rank: int, *args: Any) -> Any:
        return self.fn(self.nprocs - 1 - rank, *args)


class WrongRank(WrongCall):
    wrap = Reverse
    fails = {"test_the_index_is_the_rank"}


class Endless(Around):
    def join(self, timeout: float | None = None) -> None:
        self.inner.join()


class JoinThatHangs(WrongProcess):
    wrap = Endless
    fails = {"test_join_returns_in_time"}


class Deaf(Around):
    def terminate(self) -> None:
        pass


class IgnoresTerminate(WrongProcess):
    wrap = Deaf
    fails = {"test_terminate_ends_a_rank"}


class RunsInItsCaller(Sound):
    """Calls fn in a thread of the process that tests, where one that ends its process would end the tests."""

    fails = {"test_each_rank_has_a_process_of_its_own"}

    def start(self, launch: Launch) -> Started:
        if self.is_wrong(launch):
            thread = threading.Thread(
                target=swallow, args=(launch.fn, 0, *launch.args), daemon=True
            )
            thread.start()
            thread.join()
        return super().start(launch)

    def is_wrong(self, launch: Launch) -> bool:
        return True


class RunsInItsCallerAtTimes(RunsInItsCaller):
    fails = {"test_one_rank_and_many"}  # then nothing more is run

    def is_wrong(self, launch: Launch) -> bool:
        return launch.nprocs == MANY


class ForAll(Call):
    def __call__(self, rank: int, *args: Any) -> Any:
        for other in range(self.nprocs):
            threading.Thread(target=swallow, args=(self.fn, other, *args), daemon=True).start()
        return self.fn(rank, *args)


class RunsAllInOne(WrongCall):
    """Has one process call fn for all ranks."""

    wrap = ForAll
    fails = {"test_each_rank_has_a_process_of_its_own"}


class ClosedAlready(Around):
    def release(self) -> None:
        self.inner.release()
        raise OSError("closed already")


class RaisesOnRelease(WrongProcess):
    wrap = ClosedAlready
    fails = {"test_a_process_that_has_ended_can_be_released"}


class Forgetful(Around):
    released = False

    @property
    def exitcode(self) -> Any:
        return None if self.released else self.inner.exitcode

    def release(self) -> None:
        self.inner.release()
        self.released = True


class ForgetsOnRelease(WrongProcess):
    wrap = Forgetful
    fails = {"test_a_process_that_has_ended_can_be_released"}


class Unavailable(Sound):
    fails = {"test_it_is_available"}

    def availability(self) -> Availability:
        return Availability(False, "of no use")


# What is left over


class Unreaped(Around):
    @property
    def exitcode(self) -> int | None:
        return self.inner._exitcode if self._look() else None

    def is_alive(self) -> bool:
        return not self._look()

    def join(self, timeout: float | None = None) -> None:
        if self.inner._has_ended(timeout or 0):
            self._look()

    def _look(self) -> bool:
        """Learn how it ended, and leave it a zombie."""
        if self.inner._exitcode is None:
            how = os.waitid(os.P_PID, self.inner.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if how is None:
                return False
            killed = how.si_code != os.CLD_EXITED
            self.inner._exitcode = -how.si_status if killed else how.si_status
            self.inner._ended = True
        return True


class LeavesAZombie(WrongProcess):
    wrap = Unreaped
    fails = {
        "test_nothing_is_left[child]",
        *faults(
            "all well, program left", "all well, fork left"
        ),  # a zombie's group is no sign of it
    }


class LeaksADescriptor(Sound):
    fails = {"test_nothing_is_left[descriptor]"}

    def start(self, launch: Launch) -> Started:
        kept.append(os.open(os.devnull, os.O_RDONLY))
        return super().start(launch)


class LeaksAThread(Sound):
    fails = {"test_nothing_is_left[thread]"}

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return started


class LeavesAChild(Sound):
    fails = {"test_one_rank_and_many"}

    def start(self, launch: Launch) -> Started:
        if launch.nprocs == MANY:
            kept.append(subprocess.Popen(self.command, env={}))
        return super().start(launch)

    command = ["sleep", "77"]


class LeavesAStranger(LeavesAChild):
    """Leaves a process without parent and environment, in a session of its own."""

    command = ["sh", "-c", "setsid sleep 77 >/dev/null 2>&1 </dev/null &"]
    fails = {"test_one_rank_and_many"}


class LeavesOneALaunch(Sound):
    """Leaves a process that could pass for a helper, if there were not so many."""

    fails = {"test_there_is_one_of_each_a_rank", "test_the_index_is_the_rank"}

    def start(self, launch: Launch) -> Started:
        if launch.nprocs == 3:
            kept.append(subprocess.Popen(["sleep", "77"]))
        return super().start(launch)


class HasAHelper(Sound):
    """Not wrong: a process serves all its launches."""

    fails = set()
    helper: ClassVar[Any] = None

    def start(self, launch: Launch) -> Started:
        if type(self).helper is None:
            type(self).helper = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )  # ends with this process
        return super().start(launch)


class LeavesHalf(Sound):
    fails = {"test_a_start_that_fails_leaves_no_rank"}

    def start(self, launch: Launch) -> Started:
        try:
            return super().start(launch)
        except OSError:
            kept.append(super().start(launch._replace(nprocs=2, environments=({}, {}))))
            raise


# Lies about capabilities


class LiesAboutDaemons(Sound):
    fails = {"test_daemons_can_not"}

    def start(self, launch: Launch) -> Started:
        return super().start(launch._replace(daemon=False))


class LiesAboutTheEnvironment(Sound):
    fails = {"test_env_is_that_of_each_rank", "test_ranks_know_their_place"}

    def start(self, launch: Launch) -> Started:
        return super().start(launch._replace(environments=({},) * launch.nprocs))


class Plain:
    """What a process must have, and no more."""

    def __init__(self, inner: Any) -> None:
        for name in ("pid", "is_alive", "join", "terminate", "kill", "release"):
            setattr(self, name, getattr(inner, name))
        self._inner = inner

    @property
    def exitcode(self) -> Any:
        return self._inner.exitcode


class LiesAboutStacks(WrongProcess):
    wrap = Plain
    fails = {"test_a_deadline_shows_stacks"}


class LiesAboutDescendants(Sound):
    fails = faults(
        *("session", "daemon", "stranger", "stranger, SIGKILL", "peer's session"),
        *("all well, program left", "all well, fork left"),
    )

    def start(self, launch: Launch) -> Started:
        return super().start(launch._replace(keep_daemons=True))


# What is late, or dear


class Late(Around):
    """A channel that becomes readable with the end of its rank."""

    def __init__(self, inner: Any, sentinel: Any) -> None:
        super().__init__(inner)
        self.sentinel = sentinel

    def fileno(self) -> int:
        return int(self.sentinel)

    def receive(self) -> Report | None:
        report: Report | None = self.inner.receive()
        return report


class ReportsAtTheEnd(Sound):
    fails = {"test_a_failure_is_reported_before_its_process_ends"}

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        pairs = zip(started.error_channels, started.sentinels, strict=True)
        return started._replace(error_channels=[Late(*pair) for pair in pairs])


class Quadratic(Sound):
    fails = {"test_start_is_linear_in_the_number_of_ranks"}

    def start(self, launch: Launch) -> Started:
        for one in range(launch.nprocs):
            for other in range(launch.nprocs):
                sorted([one, other] * 9, key=lambda each: -each)
        return super().start(launch)


class PicklesTooOften(SpawnBackend):
    name = "often"
    capabilities = SpawnBackend().capabilities
    fails: ClassVar[set[str]] = {"test_args_are_pickled_at_most_once_a_rank"}

    def availability(self) -> Availability:
        return SpawnBackend().availability()

    def start(self, launch: Launch) -> Started:
        for _ in range(launch.nprocs):
            try:
                pickle.dumps(launch.args)
            except RuntimeError:  # a lock, which only a process that is starting may have
                pass
        return super().start(launch)


class LeavesAlone(Sound):
    capabilities = Sound.capabilities._replace(together=True)
    fails = {"test_ranks_leave_together"}


WRONG: dict[str, Any] = {
    one.__name__: one
    for one in list(globals().values())
    if isinstance(one, type) and "fails" in vars(one)
}
