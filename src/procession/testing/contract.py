"""The contract of `start_processes` (that of torch.multiprocessing), as a caller sees it."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
from multiprocessing.connection import wait
from typing import Any

import pytest

from procession.api import start_processes
from procession.context import ProcessContext
from procession.exceptions import (
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    ResultError,
)
from procession.testing import ranks
from procession.testing.own_process import InOwnProcess
from procession.testing.protocol import assert_ended, receive, started
from procession.testing.subject import Subject


class Contract:
    """Tests of calls, arguments, results, the environment and contexts."""

    def test_a_joined_call_returns_none(self, subject: Subject) -> None:
        """A call that joins returns None, as torch's does."""
        start: Any = start_processes
        call, options = InOwnProcess(ranks.nothing, str(subject.folder)), subject.options
        assert start(call, (), 2, start_method=subject.backend, options=options) is None

    def test_fn_gets_the_rank_and_args(self, subject: Subject) -> None:
        """Fn is called with the rank and args, and the results are in the order of ranks."""
        assert subject.run(ranks.give, "a", [1], nprocs=3) == [(r, "a", [1]) for r in range(3)]

    def test_fn_runs_once_a_rank(self, subject: Subject) -> None:
        """Fn runs exactly once in each rank: the engine does not retry it."""
        subject.run(ranks.count_calls, str(subject.folder), nprocs=3)
        assert [subject.stage.read(f"calls {rank}") for rank in range(3)] == ["."] * 3

    def test_one_rank_and_many(self, subject: Subject) -> None:
        """A launch may have one rank, or many."""
        assert subject.run(ranks.give, nprocs=1) == [(0,)]
        assert subject.run(ranks.give, nprocs=12) == [(rank,) for rank in range(12)]

    def test_a_context_has_torchs_attributes(self, subject: Subject) -> None:
        """The context has processes, sentinels and pids, while ranks work and after they were stopped."""
        with subject.start(ranks.work, str(subject.folder)) as context:
            assert isinstance(context, ProcessContext)
            assert context.pids() == [process.pid for process in context.processes]
            assert list(context.sentinels.values()) == [0, 1]
            assert all(process.is_alive() for process in context.processes)
        assert not any(process.is_alive() for process in context.processes)
        assert context.sentinels == {}

    def test_a_pid_is_the_ranks_own(self, subject: Subject) -> None:
        """`pids` returns what `os.getpid` returns in each rank."""
        context = subject.start(ranks.enter, str(subject.folder))
        assert context.wait()
        pids = [int(subject.await_cue(f"rank {rank}")) for rank in range(2)]
        assert pids == context.pids()

    def test_join_polls_and_keeps_to_its_answer(self, subject: Subject) -> None:
        """`wait` returns False while a rank works, and True each time after all have ended."""
        with subject.start(ranks.work_until, str(subject.folder), "stop") as context:
            assert context.wait(0) is False
            assert context.wait(-1) is False
            assert context.wait(0.05) is False
            subject.stage.tell("stop")
            assert context.wait(30)
            assert [context.wait(), context.wait(-1)] == [True, True]

    def test_a_failure_is_raised_by_every_join(self, subject: Subject) -> None:
        """Each `wait` raises an equal exception with the rank's traceback; the exception can be pickled."""
        context = subject.start(ranks.raise_, 1, nprocs=2)
        errors = []
        for _ in range(2):
            with pytest.raises(ProcessRaisedException, match="ValueError: of rank 1") as caught:
                context.wait()
            errors.append(caught.value)
        assert str(errors[0]) == str(errors[1])
        copy = pickle.loads(pickle.dumps(errors[0]))
        assert (str(copy), copy.error_index, copy.error_pid) == (
            str(errors[0]),
            1,
            context.pids()[1],
        )

    def test_joins_of_threads_get_the_same_answer(self, subject: Subject) -> None:
        """Two threads that wait for one context get the same exception."""
        context = subject.start(ranks.raise_, nprocs=1)
        answers: list[str] = []

        def join() -> None:
            try:
                context.wait()
            except ProcessException as error:
                answers.append(str(error))

        threads = [threading.Thread(target=join) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 2
        assert answers[0] == answers[1]

    def test_one_rank_can_be_terminated(self, subject: Subject) -> None:
        """`terminate` of one process fails its launch; the error names its rank and SIGTERM."""
        subject.need("signals", "exit_codes")
        with subject.start(ranks.work, str(subject.folder)) as context:
            subject.await_cue("rank 1")
            context.processes[1].terminate()
            with pytest.raises(ProcessExitedException) as caught:
                context.wait()
        assert caught.value.error_index == 1
        assert caught.value.signal_name == "SIGTERM"

    def test_a_stop_is_logged_as_torch_logs_it(
        self, subject: Subject, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log has torch's warning, which names the process and the signal."""
        caplog.set_level(logging.WARNING, "procession")
        with subject.start(ranks.work, str(subject.folder), nprocs=1) as context:
            (pid,) = context.pids()
        first = caplog.records[0].getMessage()
        assert first == f"Terminating process {pid} via signal SIGTERM"

    def test_exit_codes_are_told(self, subject: Subject) -> None:
        """`exitcode` is 0 for success, the argument of `os._exit`, or -N for signal N."""
        subject.need("exit_codes")
        context = subject.start(ranks.nothing)
        assert context.wait()
        assert [process.exitcode for process in context.processes] == [0, 0]
        error = subject.fail(ranks.leave_at_once, 7, nprocs=1)
        assert isinstance(error, ProcessExitedException)
        assert error.exit_code == 7
        subject.need("signals")
        with subject.start(ranks.work, str(subject.folder), nprocs=1) as context:
            subject.await_cue("rank 0")
            context.processes[0].kill()
            with pytest.raises(ProcessExitedException, match="SIGKILL"):
                context.wait()
        assert context.processes[0].exitcode == -signal.SIGKILL

    def test_the_last_rank_ends_the_wait(self, subject: Subject) -> None:
        """The caller can wait for the sentinels itself, with `multiprocessing.connection.wait`."""
        context = subject.start(ranks.nothing)
        for sentinel in list(context.sentinels):
            assert wait([sentinel], 30)
        assert context.wait(30)

    def test_ranks_leave_together(self, subject: Subject) -> None:
        """At the exit barrier, a rank whose function returned stays until the other has returned or ended."""
        subject.need("exit_barrier", "signals")
        with started(subject, ranks.work_as, 0, str(subject.folder)) as ones:
            subject.await_cue("rank 0")
            assert receive(ones.error_channels[1]) is not None, "rank 1 has reported nothing"
            assert not wait([ones.sentinels[1]], 0.2), "rank 1 has left, and rank 0 works"
            ones.processes[0].kill()
            assert_ended(ones, 1)

    def test_large_results_arrive(self, subject: Subject) -> None:
        """Results may be far larger than the buffer of a pipe or a socket."""
        results = subject.run(ranks.make_large, 3 << 20)
        assert [(len(one), one[:1]) for one in results] == [(3 << 20, b"\0"), (3 << 20, b"\1")]

    def test_results_that_cannot_be_pickled_are_told(self, subject: Subject) -> None:
        """`results` raises, naming the rank; the launch itself succeeds."""
        context = subject.start(ranks.return_unpicklable, nprocs=1)
        assert context.wait()
        with pytest.raises(ResultError, match="rank 0"):
            context.results()

    def test_args_that_cannot_be_pickled_are_refused(self, subject: Subject) -> None:
        """The call raises before any rank starts."""
        subject.need_pickling()
        with pytest.raises(ValueError, match="raised while pickled"):
            subject.start(ranks.give, ranks.RaisesOnDump())

    def test_args_that_cannot_be_unpickled_are_told(self, subject: Subject) -> None:
        """The launch fails with the traceback of the rank."""
        subject.need_pickling()
        error = subject.fail(ranks.give, ranks.RaisesOnLoad())
        assert "ValueError: raised while unpickled" in str(error)

    def test_args_are_handed_over_as_they_are(self, subject: Subject) -> None:
        """A rank that is a copy of its caller gets args without pickling."""
        subject.need("by_reference")
        one = object()
        assert subject.run(lambda _rank, other: other is one, one) == [True, True]

    def test_queues_and_locks_of_the_context_fit(self, subject: Subject) -> None:
        """Ranks can use queues and locks of `get_context` with the claimed name."""
        subject.need("context")
        from procession.api import get_context

        context = get_context(subject.capabilities.context)
        queue = context.SimpleQueue()
        subject.run(ranks.put, queue)
        assert sorted([queue.get(), queue.get()]) == [0, 1]
        queue.close()
        lock = context.Lock()
        with lock:
            launched = subject.start(ranks.open_gate, lock, str(subject.folder), nprocs=1)
            subject.await_cue("rank 0")
            assert launched.wait(0.05) is False
        assert launched.wait()

    def test_ranks_know_their_place(self, subject: Subject) -> None:
        """`rank_info` returns rank and nprocs; ``env`` may set RANK itself."""
        assert subject.run(ranks.see_rank_info) == [(0, 2), (1, 2)]
        subject.need("environment")
        seen = subject.run(ranks.see_environment, "RANK", "WORLD_SIZE", env={"RANK": "r"})
        assert [one[0] for one in seen] == ["r", "r"]

    def test_env_is_that_of_each_rank(self, subject: Subject) -> None:
        """``env`` may be a function from a `RankPlace` to the rank's variables; None removes a variable."""
        subject.need("environment")
        names = "PROCESSION_KIT", "PATH"
        seen = subject.run(
            ranks.see_environment,
            *names,
            env=lambda place: {"PROCESSION_KIT": str(place.rank), "PATH": None},
        )
        assert seen == [["0", None], ["1", None]]

    def test_env_is_in_force_before_args_are_unpickled(self, subject: Subject) -> None:
        """``env`` applies before args are unpickled, and so before anything is imported for them."""
        subject.need("environment")
        subject.need_pickling()
        one = ranks.SeesEnvironment("PROCESSION_KIT")
        seen = subject.run(ranks.give, one, env=lambda place: {"PROCESSION_KIT": str(place.rank)})
        assert seen == [(0, "0"), (1, "1")]

    def test_ranks_can_launch(self, subject: Subject) -> None:
        """A rank can launch ranks."""
        results = subject.run(ranks.nest, "spawn")
        assert results == [[(0, rank), (1, rank)] for rank in range(2)]

    def test_daemons_can_not(self, subject: Subject) -> None:
        """A daemonic rank cannot launch ranks, as in multiprocessing."""
        subject.need("daemon")
        error = subject.fail(ranks.nest, "spawn", daemon=True, nprocs=1)
        assert "daemonic processes are not allowed" in str(error)

    def test_launches_do_not_disturb_each_other(self, subject: Subject) -> None:
        """Several threads can launch at the same time."""
        results: list[list[Any]] = []

        def launch(number: int) -> None:
            results.append(subject.run(ranks.give, number))

        threads = [threading.Thread(target=launch, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [[(0, number), (1, number)] for number in range(3)]

    def test_a_thread_that_ends_leaves_its_ranks_alone(self, subject: Subject) -> None:
        """Ranks run on after the thread that launched them has ended: their parent is the process."""
        contexts: list[ProcessContext] = []

        def launch() -> None:
            contexts.append(subject.start(ranks.work_until, str(subject.folder), "stop"))

        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
        with contexts[0] as context:
            subject.await_cue("rank 1")
            subject.stage.tell("stop")
            assert context.results() == [0, 1]
