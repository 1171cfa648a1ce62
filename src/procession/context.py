"""`ProcessContext`: what a launch returns, to wait for its ranks, read their results and stop them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from procession._python.clock import monotonic
from procession._supervise import launches, oom
from procession._supervise.forwarding import waiting
from procession._supervise.supervisor import Supervisor
from procession._supervise.verdict import make_timeout
from procession.exceptions import ResultError, make_exception, note_on
from procession.failure import Failure
from procession.protocol import ErrorChannel, Launch, Process, Sentinel, Started

if TYPE_CHECKING:
    from typing_extensions import Self

log: logging.Logger = logging.getLogger("procession")

_RECHECK = 0.05  # seconds between looks where nothing can wait for events

NOT_COLLECTED = "results were not asked for: pass collect_results=True, or call procession.run"


class ProcessContext:
    """The ranks of one launch.

    As a context manager it stops ranks that still run when the block ends.  If it is dropped or never joined,
    the ranks run on: when the interpreter exits, it waits for them, and stops daemonic ones.  Any thread may
    call any method, any number of times, with the same outcome.

    Args:
        processes: processes that the caller started itself, as in torch: objects with the attributes
            ``pid``, ``sentinel``, ``exitcode``, ``is_alive``, ``join``, ``terminate`` and ``kill`` of a
            `multiprocessing.Process`.
        error_files: for each process the path of the file that torch's ``_wrap`` writes, or an
            `ErrorChannel`.
    """

    def __init__(self, processes: Sequence[Any], error_files: Sequence[Any]) -> None:
        from procession._supervise.caller_processes import adopt

        launch, started = adopt(processes, error_files)
        self.error_files: Sequence[Any] = error_files
        self._begin(launch, started, oom.count_kills())

    @classmethod
    def _of_launch(
        cls, launch: Launch, started: Started, oom_kills: dict[str, int] | None = None
    ) -> Self:
        """Return the context of ranks that a backend started."""
        context = cls.__new__(cls)
        context.error_files = list(started.error_channels)
        context._begin(launch, started, oom.count_kills() if oom_kills is None else oom_kills)
        return context

    def _begin(self, launch: Launch, started: Started, kills: dict[str, int]) -> None:
        self._supervisor = Supervisor(launch, started, kills)
        self._results: list[Any] | None = None
        launches.note(self._supervisor, self)
        if launch.supervise:
            from procession._supervise.background import supervise

            supervise(self._supervisor)

    def __repr__(self) -> str:
        launch = self._supervisor.launch
        state = "finished" if self._supervisor.finished else f"pids={self.pids()}"
        return f"<{type(self).__name__} {launch.start_method} nprocs={launch.nprocs} {state}>"

    @property
    def processes(self) -> Sequence[Process]:
        """The ranks' processes, by rank."""
        return [rank_state.process for rank_state in self._supervisor.rank_states]

    @property
    def sentinels(self) -> dict[Sentinel, int]:
        """The rank of each sentinel whose end `join` has not reported yet; callers may pop entries."""
        return self._supervisor.sentinels

    @property
    def error_channels(self) -> Sequence[ErrorChannel]:
        """The caller's ends of the error channels, by rank."""
        return [rank_state.channel for rank_state in self._supervisor.rank_states]

    def pids(self) -> list[int]:
        """Return the process ids, by rank."""
        return [int(rank_state.process.pid or 0) for rank_state in self._supervisor.rank_states]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait until a rank has ended, as in torch; if one fails, stop the others and raise the root cause.

        `wait` waits for all ranks.

        Args:
            timeout: seconds to wait; None waits for the next end, 0 or less only looks, unless
                ranks are being stopped: that is waited for.
            grace_period: seconds that the others have to end by themselves after a failure before they get
                SIGTERM, and again before SIGKILL.  None: SIGTERM at once, SIGKILL after 5 s, or after 30 s
                for ranks that have a handler for SIGTERM.  A value applies to every later stop, too.

        Returns:
            True if all ranks have ended, False if some still run.

        In the main thread, `join` forwards SIGTERM, SIGHUP and Ctrl-Z to the ranks meanwhile: see the guide
        "Checkpoint on SIGTERM".

        Raises:
            ProcessRaisedException: a rank raised.
            ProcessExitedException: a rank was ended by a signal or exited with a failure.
            ProcessTimeoutError: the launch's own deadline passed.
        """
        sentinels = self._supervisor.sentinels
        if not sentinels:
            timeout = 0
        finished = self._wait(timeout, grace_period, self._has_unreported_end)
        for sentinel, rank in list(sentinels.items()):
            if self._supervisor.rank_states[rank].ended:
                sentinels.pop(sentinel, None)
        if sentinels:
            return False
        if not finished and all(rank_state.ended for rank_state in self._supervisor.rank_states):
            finished = self._wait(None, grace_period)  # what remains is the cleanup
        return self._conclude() if finished else True

    def wait(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for all ranks; if one fails, stop the others and raise the root cause.

        The arguments and exceptions are those of `join`.

        Returns:
            True if all ranks have ended without a failure, or because the caller stopped them; False if
            some still run after ``timeout`` seconds.
        """
        return self._wait(timeout, grace_period) and self._conclude()

    def results(
        self, timeout: float | None = None, *, return_exceptions: bool = False
    ) -> list[Any]:
        """Wait for all ranks and return their return values, by rank.

        This unpickles data that the ranks sent.

        Args:
            timeout: seconds to wait; the ranks run on after it.
            return_exceptions: do not raise for a rank that failed or has no result: put the exception in
                its place in the list.

        Raises:
            TimeoutError: some ranks still run after ``timeout`` seconds.
            ResultError: a rank was stopped, left early, or returned a value that cannot be pickled; or the
                launch does not collect results.
            ProcessException: as for `wait`.
        """
        if not self._supervisor.launch.wants_results:
            raise ResultError(0, NOT_COLLECTED)
        if not self._wait(timeout, None):
            raise TimeoutError(f"the ranks did not end within {timeout} s: they run on")
        if return_exceptions:
            return self._collect()
        self._conclude()
        if self._results is None:
            self._results = [self._load(rank) for rank in range(len(self._supervisor.rank_states))]
        return self._results

    def dump_stacks(self) -> dict[int, str]:
        """Return the Python stacks of all threads of the running ranks, by rank, within about 1 s.

        A rank answers even if it is deadlocked or in C code (from a signal handler in C, `faulthandler`),
        and continues.  If its main thread is in C while other threads run, the stack of the main thread
        comes alone.  For a rank that does not answer, the text says why, with the state of its process.
        """
        return self._supervisor.collect_stacks()

    def terminate(self, grace_period: float | None = None) -> None:
        """Stop all ranks and reap them: SIGTERM, then SIGKILL.

        Args:
            grace_period: seconds between the two; None: the launch's, else 5.
        """
        try:
            self._supervisor.stop(grace_period)
            self._run()
        except KeyboardInterrupt:
            self._kill()
            raise

    def interrupt(self, grace_period: float | None = None) -> None:
        """Send SIGINT (Ctrl-C) to all ranks and reap them; a second Ctrl-C kills them at once.

        Ranks that do not end within the grace period are stopped as by `terminate`.

        Args:
            grace_period: seconds between signals; None: the launch's, else 5.
        """
        try:
            self._supervisor.stop(grace_period, interrupt=True)
            self._run()
        except KeyboardInterrupt:
            self._kill()

    def pass_on_deferred(self) -> None:
        """Act on signals that arrived while the ranks were being started; the launcher calls this."""
        with waiting(self._supervisor):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._supervisor.finished:
            self.terminate()
        if error is not None:
            self._note_failures(error)

    def __await__(self) -> Generator[Any, None, bool]:
        """Wait as `wait` does, in an asyncio event loop, without a thread."""
        return self._await().__await__()

    async def _await(self) -> bool:
        with waiting(self._supervisor):
            while not self._supervisor.finished:
                await _wait_for_event(self._supervisor)
                self._supervisor.try_step()
        return self._conclude()

    def _wait(
        self,
        timeout: float | None,
        grace_period: float | None,
        enough: Callable[[], bool] | None = None,
    ) -> bool:
        """Supervise for some seconds; return whether the launch has finished."""
        until = float("inf") if timeout is None else monotonic() + timeout
        try:
            with waiting(self._supervisor):
                return self._supervisor.run(until, grace_period, enough)
        except KeyboardInterrupt:
            try:
                self.interrupt(grace_period)
            except KeyboardInterrupt:  # a second one, before `interrupt` was ready for it
                self._kill()
            raise

    def _run(self) -> None:
        """Supervise until the launch has finished."""
        with waiting(self._supervisor):
            self._supervisor.run()

    def _has_unreported_end(self) -> bool:
        """Whether a rank has ended whose end `join` has not reported."""
        rank_states = self._supervisor.rank_states
        return any(rank_states[rank].ended for rank in list(self._supervisor.sentinels.values()))

    def _collect(self) -> list[Any]:
        """Return each rank's result, or its exception."""
        launches.conclude(self._supervisor)
        failures = {one.rank: one for one in self._supervisor.failures()}
        places: list[Any] = []
        for rank in range(len(self._supervisor.rank_states)):
            try:
                failed = failures.get(rank)
                places.append(self._load(rank) if failed is None else self._explain(failed))
            except Exception as error:  # also what unpickling raises
                places.append(error)
        return places

    def _explain(self, failure: Failure) -> Exception:
        """Return the exception for one rank: a timeout if it ran at the deadline, else how it failed."""
        supervisor = self._supervisor
        if failure.rank not in supervisor.timed_out:
            return make_exception([failure])
        stacks = {rank: text for rank, text in supervisor.stacks.items() if rank == failure.rank}
        return make_timeout(supervisor.launch.timeout or 0, [failure.rank], [failure], stacks)

    def _conclude(self) -> bool:
        launches.conclude(self._supervisor)
        failures = self._supervisor.failures()
        if failures and not failures[0].collateral:
            raise make_exception(failures)
        if self._supervisor.timed_out:
            supervisor, seconds = self._supervisor, self._supervisor.launch.timeout or 0
            raise make_timeout(seconds, supervisor.timed_out, failures, supervisor.stacks)
        return True

    def _note_failures(self, error: BaseException) -> None:
        """Add a note on why the launch failed to the exception that leaves the block, and log it; once."""
        if launches.has_failed(self._supervisor) and launches.conclude(self._supervisor):
            text = launches.describe_failure(self._supervisor)
            note_on(error, f"meanwhile the launch failed: {text}")
            log.error("a launch failed before %s left its block: %s", type(error).__name__, text)

    def _load(self, rank: int) -> Any:
        report = self._supervisor.rank_states[rank].report
        if report is None:
            raise ResultError(rank, "it was stopped or left early")
        if report.result is None:
            raise ResultError(rank, report.text)
        from procession._python.unpickle import load

        try:
            return load(report.result)
        except (Exception, SystemExit) as error:
            reason = f"it cannot be unpickled: {type(error).__name__}: {error}"
            raise ResultError(rank, reason) from error

    def _kill(self) -> None:
        self._supervisor.hurry()
        self._run()


async def _wait_for_event(supervisor: Supervisor) -> None:
    try:
        from procession._supervise.event_loop import wait_for_event
    except (ImportError, OSError):  # no descriptor is free
        await sys.modules["asyncio"].sleep(_RECHECK)
    else:
        await wait_for_event(supervisor)


class SpawnContext(ProcessContext):
    """Deprecated name of `ProcessContext`, kept because torch keeps it."""

    def __init__(self, processes: Sequence[Any], error_files: Sequence[Any]) -> None:
        warnings.warn("SpawnContext is renamed to ProcessContext", DeprecationWarning, stacklevel=2)
        super().__init__(processes, error_files)
