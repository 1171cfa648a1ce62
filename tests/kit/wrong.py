"""Backends with one fault each, and the tests of the kit that must fail because of it; no others may."""

from __future__ import annotations

import os
import pickle
import threading
from typing import Any, ClassVar

import wrong_leaving
from sound import MANY, Around, Call, Sound, WrongCall, WrongProcess, faults, kept, swallow

from procession import Availability, Launch, Report, Started
from procession.backends.spawn import SpawnBackend

# Faults that the tests of the protocol find


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
    """Declares that it lacks exit codes and signals, so that no test asks for them."""

    capabilities = Sound.capabilities.replace(signals=False, exit_codes=False)
    fails = set()


class NoSentinel(Sound):
    fails = {"test_a_sentinel_is_readable_once_its_process_has_ended"}

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        pipes = [os.pipe() for _ in started.processes]
        kept.extend(pipes)
        return started.replace(sentinels=[reader for reader, _ in pipes])


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
    """Calls fn in a thread of the process that runs the tests, which an fn that exits would end."""

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
    fails = {"test_one_rank_and_many"}  # no further test runs

    def is_wrong(self, launch: Launch) -> bool:
        return launch.nprocs == MANY


class ForAll(Call):
    def __call__(self, rank: int, *args: Any) -> Any:
        for other in range(self.nprocs):
            threading.Thread(target=swallow, args=(self.fn, other, *args), daemon=True).start()
        return self.fn(rank, *args)


class RunsAllInOne(WrongCall):
    """Calls fn for all ranks in each process."""

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


# Wrong claims about capabilities


class LiesAboutDaemons(Sound):
    fails = {"test_daemons_can_not"}

    def start(self, launch: Launch) -> Started:
        return super().start(launch.replace(daemon=False))


class LiesAboutTheEnvironment(Sound):
    fails = {"test_env_is_that_of_each_rank", "test_ranks_know_their_place"}

    def start(self, launch: Launch) -> Started:
        return super().start(launch.replace(environments=({},) * launch.nprocs))


class Plain:
    """A process with the attributes that the protocol requires, and no more."""

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
        return super().start(launch.replace(keep_daemons=True))


# Faults of time and cost


class Late(Around):
    """A channel that becomes readable only when its rank ends."""

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
        return started.replace(error_channels=[Late(*pair) for pair in pairs])


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
            except (
                RuntimeError
            ):  # args have a lock, which pickles only while a process is being started
                pass
        return super().start(launch)


class LeavesAlone(Sound):
    capabilities = Sound.capabilities.replace(exit_barrier=True)
    fails = {"test_ranks_leave_together"}


WRONG: dict[str, Any] = {
    one.__name__: one
    for one in [*vars(wrong_leaving).values(), *globals().values()]
    if isinstance(one, type) and "fails" in vars(one)
}
