"""What a launch leaves in its caller's hands: `ProcessContext`, to wait on, to read, to end."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from procession import launches, oom
from procession.exceptions import ResultError, note_on
from procession.forwarding import waiting
from procession.gang import Gang
from procession.protocol import ErrorChannel, Launch, Process, Sentinel, Started
from procession.verdict import make_exception, make_timeout

if TYPE_CHECKING:
    from typing_extensions import Self

log: logging.Logger = logging.getLogger("procession")


class ProcessContext:
    """The ranks of one launch.

    Leaving it as a context manager stops ranks that still run.  One that is dropped, or never joined, lets
    them run on: when the interpreter exits it waits for them, and ends daemonic ones.  All methods may be
    called from any thread; whoever asks gets the same answer, however often.
    """

    def __init__(
        self, launch: Launch, started: Started, oom_kills: dict[str, int] | None = None
    ) -> None:
        kills = oom.count_kills() if oom_kills is None else oom_kills
        self._gang = Gang(launch, started, kills)
        self._results: list[Any] | None = None
        launches.note(self._gang, self)
        if launch.supervise:
            from procession.background import supervise

            supervise(self._gang)

    def __repr__(self) -> str:
        launch = self._gang.launch
        state = "finished" if self._gang.finished else f"pids={self.pids()}"
        return f"<{type(self).__name__} {launch.start_method} nprocs={launch.nprocs} {state}>"

    @property
    def processes(self) -> Sequence[Process]:
        """The ranks' processes, by rank."""
        return [member.process for member in self._gang.members]

    @property
    def sentinels(self) -> dict[Sentinel, int]:
        """The ranks that have not ended: a sentinel of each, and the rank."""
        return {one.sentinel: one.rank for one in self._gang.members if not one.ended}

    @property
    def error_channels(self) -> Sequence[ErrorChannel]:
        """The launcher's ends of the ranks' error channels, by rank."""
        return [member.channel for member in self._gang.members]

    def pids(self) -> list[int]:
        """Return the process ids, by rank."""
        return [int(member.process.pid or 0) for member in self._gang.members]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for the ranks; when one fails, end them all and raise with the cause.

        Args:
            timeout: seconds to wait; None waits for the end, 0 or less only looks.
            grace_period: when a rank fails, seconds that the others have to end by themselves before
                SIGTERM, and again before SIGKILL.  None: SIGTERM at once, SIGKILL after 5 s.  Once
                given, it holds for every later stop.

        Returns:
            True if all ranks have ended well, False if some still run.

        In the main thread, SIGTERM, SIGHUP and Ctrl-Z are passed on to the ranks meanwhile: see the guide
        "Checkpoint on SIGTERM".

        Raises:
            ProcessRaisedException: a rank raised.
            ProcessExitedException: a rank was ended by a signal or exited with a failure.
            ProcessTimeoutError: the launch's own deadline passed.
        """
        until = float("inf") if timeout is None else time.monotonic() + timeout
        try:
            finished = self._run(until, grace_period)
        except KeyboardInterrupt:
            self.interrupt(grace_period)
            raise
        return finished and self._conclude()

    def results(self) -> list[Any]:
        """Wait for the ranks, and return what they returned, by rank.

        This unpickles what the ranks sent.

        Raises:
            ResultError: a rank was stopped, left early, or returned what cannot be pickled.
            ProcessException: as `join` does.
        """
        self.join()
        if self._results is None:
            self._results = [self._load(rank) for rank in range(len(self._gang.members))]
        return self._results

    def dump_stacks(self) -> dict[int, str]:
        """Return the Python stacks of all threads of the ranks that run, by rank, within about 1 s.

        A rank answers even if it is deadlocked or in C code, there from a signal handler in C
        (`faulthandler`), and goes on.  If its main thread is in C and others run, the main thread is
        shown alone.  Where a rank does not answer, the text says why, with the state of its process.
        """
        return self._gang.collect_stacks()

    def terminate(self, grace_period: float | None = None) -> None:
        """Stop all ranks and reap them: SIGTERM, then SIGKILL.

        Args:
            grace_period: seconds between the two; None: the launch's, else 5.
        """
        self._gang.stop(grace_period)
        try:
            self._run()
        except KeyboardInterrupt:
            self._kill()
            raise

    def interrupt(self, grace_period: float | None = None) -> None:
        """Pass an interrupt (Ctrl-C) on to all ranks, and see them end; a second one kills them at once.

        What does not end by itself is ended as by `terminate`.
        """
        self._gang.stop(grace_period, interrupt=True)
        try:
            self._run()
        except KeyboardInterrupt:
            self._kill()

    def pass_on_deferred(self) -> None:
        """Act on signals that came while the ranks were started: for the launcher."""
        with waiting(self._gang):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._gang.finished:
            self.terminate()
        if error is not None:
            self._note_failures(error)

    def __await__(self) -> Generator[Any, None, bool]:
        """Wait as `join` does, in asyncio's event loop, without a thread."""
        return self._wait().__await__()

    async def _wait(self) -> bool:
        from procession.eventloop import wait_for_event

        with waiting(self._gang):
            while not self._gang.finished:
                await wait_for_event(self._gang)
                self._gang.try_step()
        return self._conclude()

    def _run(self, until: float = float("inf"), grace_period: float | None = None) -> bool:
        with waiting(self._gang):
            return self._gang.run(until, grace_period)

    def _conclude(self) -> bool:
        launches.conclude(self._gang)
        failures = self._gang.failures()
        if failures and not failures[0].collateral:
            raise make_exception(failures)
        if self._gang.timed_out:
            gang, seconds = self._gang, self._gang.launch.timeout or 0
            raise make_timeout(seconds, gang.timed_out, failures, gang.stacks)
        return True

    def _note_failures(self, error: BaseException) -> None:
        """Note on what leaves the block why the launch failed, if nobody has learned of that."""
        if launches.has_failed(self._gang) and launches.conclude(self._gang):
            text = launches.describe_failure(self._gang)
            note_on(error, f"meanwhile the launch failed: {text}")
            log.error("a launch that was left by %s failed: %s", type(error).__name__, text)

    def _load(self, rank: int) -> Any:
        report = self._gang.members[rank].report
        if report is None:
            raise ResultError(rank, "it was stopped or left early")
        if report.result is None:
            raise ResultError(rank, report.text)
        import multiprocessing  # noqa: F401  # makes __mp_main__, which ranks name, this __main__
        import pickle

        try:
            return pickle.loads(report.result)
        except (Exception, SystemExit) as error:
            reason = f"it cannot be unpickled: {type(error).__name__}: {error}"
            raise ResultError(rank, reason) from error

    def _kill(self) -> None:
        self._gang.hurry()
        self._run()


class SpawnContext(ProcessContext):
    """Former name of `ProcessContext`, kept as torch keeps it; making one warns."""

    def __init__(
        self, launch: Launch, started: Started, oom_kills: dict[str, int] | None = None
    ) -> None:
        warnings.warn("SpawnContext is renamed to ProcessContext", DeprecationWarning, stacklevel=2)
        super().__init__(launch, started, oom_kills)
