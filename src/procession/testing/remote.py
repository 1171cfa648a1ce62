"""The class that certifies a backend whose ranks are children of agents, with the engine on this machine.

It adds tests that fail with an engine that loses exit codes, retries tasks, queues forever or outlives its
client.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, ClassVar

import pytest

from procession.exceptions import (
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    StartError,
)
from procession.testing import callers, remote_ranks
from procession.testing.conformance import BackendConformance
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until
from procession.testing.times import patience

NOT_RUN = "the remote part was not run"
"""What the summary says of a remote backend that passed only the other tests."""

SOON = patience(2.0)
"""Seconds within which a failure must reach the caller, and all processes must be gone."""


class RemoteConformance(BackendConformance):
    """The further tests that a backend must pass if its ranks are children of agents."""

    ranks_are_here: ClassVar[bool] = True

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]] | None:
        """Return a number of ranks that does not fit, and further options; None if any number fits."""
        return None

    @pytest.fixture
    def engine_jobs(self) -> Callable[[], Collection[object]]:
        """Return a function that lists the engine's queued and running jobs; a test must leave none."""
        return lambda: ()

    @pytest.fixture(autouse=True)
    def _nothing_stays_at_the_engine(self, engine_jobs: Callable[[], Collection[object]]) -> Any:
        yield
        wait_until(lambda: not engine_jobs(), f"the engine still has jobs: {engine_jobs()}")

    @pytest.mark.parametrize("nprocs", [1, 2, 4])
    def test_ranks_have_places(self, subject: Subject, nprocs: int) -> None:
        """Each rank has its own process and its place in the environment; all have one address to meet at."""
        places = subject.run(remote_ranks.tell_place, nprocs=nprocs)
        assert [place["RANK"] for place in places] == [str(rank) for rank in range(nprocs)]
        assert {place["WORLD_SIZE"] for place in places} == {str(nprocs)}
        assert [place["LOCAL_RANK"] for place in places] == [str(rank) for rank in range(nprocs)]
        assert len({place["pid"] for place in places}) == nprocs
        assert len({(place["MASTER_ADDR"], place["MASTER_PORT"]) for place in places}) == 1

    def test_ranks_can_meet(self, subject: Subject) -> None:
        """Rank 0 can listen at MASTER_ADDR and MASTER_PORT, and the others can connect."""
        assert subject.run(remote_ranks.meet, nprocs=3) == [3, 1, 2]

    def test_a_raise_is_told_at_once(self, subject: Subject) -> None:
        """The caller gets rank, host and traceback, though another rank sleeps; nothing is left."""
        took, error = fail_at(subject, remote_ranks.raise_beside_a_sleeper)
        assert isinstance(error, ProcessRaisedException)
        assert "ValueError: boom from rank 1" in str(error)
        assert (error.error_index, error.host) == (1, os.uname().nodename)
        assert took < SOON
        assert_all_gone(subject)

    def test_a_killed_rank_is_told_at_once(self, subject: Subject) -> None:
        """The error of a killed rank names the signal; fn ran once in each rank."""
        took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "rank"))
        assert isinstance(error, ProcessExitedException)
        assert (error.error_index, error.signal_name) == (1, "SIGKILL")
        assert took < SOON
        assert_all_gone(subject)

    def test_a_killed_agent_is_told_at_once(self, subject: Subject) -> None:
        """The rank of a killed agent is reported as lost, and ends; fn ran once in each rank."""
        took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "agent"))
        root = error.failures[0]
        assert (root.rank, root.kind, root.exit_code) == (1, "lost", None)
        assert f"contact with its agent (process {subject.stage.read('agent 1')}" in str(error)
        assert took < SOON
        assert_all_gone(subject)

    def test_all_ends_with_the_caller(self, subject: Subject) -> None:
        """When the caller is killed, its ranks end, and so does what they started, in other sessions too."""
        caller = callers.start(subject, remote_ranks.launch_sleepers)
        try:
            for rank in range(2):
                subject.await_cue(f"asleep {rank}")
        finally:
            caller.kill()
            caller.wait()
        assert_all_gone(subject)

    def test_more_ranks_than_fit_are_refused(
        self, subject: Subject, too_many: tuple[int, Mapping[str, Any]] | None
    ) -> None:
        """More ranks than fit are refused soon, with the number of ranks; nothing stays in a queue."""
        if too_many is None:
            pytest.skip("any number of ranks fits, according to the fixture too_many")
        nprocs, more = too_many
        options = {"start_timeout": 10, **subject.options, **more}
        begun = time.monotonic()
        with pytest.raises(StartError, match=str(nprocs)) as caught:
            subject.run(remote_ranks.tell_place, nprocs=nprocs, options=options)
        assert time.monotonic() - begun < options["start_timeout"] + patience(5)
        assert caught.value.nprocs == nprocs

    @pytest.mark.parametrize("how", ["script", "-c"])
    def test_fn_may_be_of_the_main_module(self, subject: Subject, how: str) -> None:
        """A function may be from a script, or, with cloudpickle, from a notebook or ``-c``."""
        if how == "-c":
            pytest.importorskip(
                "cloudpickle", reason="cloudpickle is missing: pip install cloudpickle"
            )
        source = f"import sys; sys.path[:] = {sys.path!r}\n{remote_ranks.MAIN}"
        assert callers.execute(subject, source, how) == "[0, 10]"

    def test_an_interrupt_while_ranks_start_leaves_nothing(self, subject: Subject) -> None:
        """A KeyboardInterrupt while ranks start leaves no process."""
        caller = callers.start(subject, remote_ranks.interrupt_yourself)
        assert callers.finish(subject, caller)[-1:] == [b"interrupted"]
        assert_all_gone(subject)


def fail_at(subject: Subject, fn: Callable[..., object]) -> tuple[float, ProcessException]:
    """Run ranks of which one fails; return the seconds from that to the exception, and the exception."""
    error = subject.fail(fn, str(subject.folder))
    raised = time.monotonic()
    calls = [subject.stage.read(f"calls {rank}") for rank in range(2)]
    assert calls == [".", "."]
    return raised - float(subject.await_cue("failing")), error


def assert_all_gone(subject: Subject) -> None:
    """Fail if a rank, or a process that it noted, still runs."""
    for pid in subject.stage.noted():
        wait_until(partial(is_gone, pid), f"process {pid} runs on", 2)
