"""The class that certifies a backend whose ranks are held by agents, with its engine on this machine.

Besides what every backend must pass: what an engine that loses exit codes, retries tasks, queues for ever or
outlives its client would get wrong.
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

NOT_RUN = "the remote part was not run"
"""What the summary says of a remote backend that has passed the other tests only."""

SOON = 2.0
"""Seconds within which a failure must have reached the caller, and all must be gone."""


class RemoteConformance(BackendConformance):
    """What a backend must pass besides, if agents hold its ranks."""

    ranks_are_here: ClassVar[bool] = True

    @pytest.fixture
    def too_many(self) -> tuple[int, Mapping[str, Any]] | None:
        """Return a number of ranks that do not fit, and further options; None if any number does."""
        return None

    @pytest.fixture
    def engine_jobs(self) -> Callable[[], Collection[object]]:
        """Return a function that lists what is queued or runs at the engine, and must be over afterwards."""
        return lambda: ()

    @pytest.fixture(autouse=True)
    def _nothing_stays_at_the_engine(self, engine_jobs: Callable[[], Collection[object]]) -> Any:
        yield
        wait_until(lambda: not engine_jobs(), f"at the engine there is still: {engine_jobs()}")

    @pytest.mark.parametrize("nprocs", [1, 2, 4])
    def test_ranks_have_places(self, subject: Subject, nprocs: int) -> None:
        """In the order of ranks, each in a process of its own, and one address for all to meet at."""
        places = subject.run(remote_ranks.tell_place, nprocs=nprocs)
        assert [place["RANK"] for place in places] == [str(rank) for rank in range(nprocs)]
        assert {place["WORLD_SIZE"] for place in places} == {str(nprocs)}
        assert [place["LOCAL_RANK"] for place in places] == [str(rank) for rank in range(nprocs)]
        assert len({place["pid"] for place in places}) == nprocs
        assert len({(place["MASTER_ADDR"], place["MASTER_PORT"]) for place in places}) == 1

    def test_ranks_can_meet(self, subject: Subject) -> None:
        """At MASTER_ADDR, MASTER_PORT: rank 0 can listen there, and the others can connect."""
        assert subject.run(remote_ranks.meet, nprocs=3) == [3, 1, 2]

    def test_a_raise_is_told_at_once(self, subject: Subject) -> None:
        """With rank, host and traceback, though another rank sleeps for minutes; all is gone."""
        took, error = fail_at(subject, remote_ranks.raise_beside_a_sleeper)
        assert isinstance(error, ProcessRaisedException)
        assert "ValueError: boom from rank 1" in str(error)
        assert (error.error_index, error.host) == (1, os.uname().nodename)
        assert took < SOON
        assert_all_gone(subject)

    def test_a_killed_rank_is_told_at_once(self, subject: Subject) -> None:
        """By the signal; fn has run once in each rank."""
        took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "rank"))
        assert isinstance(error, ProcessExitedException)
        assert (error.error_index, error.signal_name) == (1, "SIGKILL")
        assert took < SOON
        assert_all_gone(subject)

    def test_a_killed_agent_is_told_at_once(self, subject: Subject) -> None:
        """Its rank is lost, and gone; fn has run once in each rank."""
        took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "agent"))
        root = error.failures[0]
        assert (root.rank, root.kind, root.exit_code) == (1, "lost", None)
        assert f"contact with its agent (process {subject.stage.read('agent 1')}" in str(error)
        assert took < SOON
        assert_all_gone(subject)

    def test_all_ends_with_the_caller(self, subject: Subject) -> None:
        """Killed, it takes ranks, and what they have started in sessions of their own, along."""
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
        """Soon, and with the numbers; nothing stays in a queue."""
        if too_many is None:
            pytest.skip("any number of ranks fits, says the fixture too_many")
        nprocs, more = too_many
        options = {"start_timeout": 10, **subject.options, **more}
        begun = time.monotonic()
        with pytest.raises(StartError, match=str(nprocs)) as caught:
            subject.run(remote_ranks.tell_place, nprocs=nprocs, options=options)
        assert time.monotonic() - begun < options["start_timeout"] + 5
        assert caught.value.nprocs == nprocs

    @pytest.mark.parametrize("how", ["script", "-c"])
    def test_fn_may_be_of_the_main_module(self, subject: Subject, how: str) -> None:
        """Of a script, or of what cannot be imported, such as a notebook: that needs cloudpickle."""
        if how == "-c":
            pytest.importorskip(
                "cloudpickle", reason="cloudpickle is missing: pip install cloudpickle"
            )
        source = f"import sys; sys.path[:] = {sys.path!r}\n{remote_ranks.MAIN}"
        assert callers.execute(subject, source, how) == "[0, 10]"

    def test_an_interrupt_while_ranks_start_leaves_nothing(self, subject: Subject) -> None:
        """Wherever it comes."""
        caller = callers.start(subject, remote_ranks.interrupt_yourself)
        assert callers.finish(subject, caller)[-1:] == [b"interrupted"]
        assert_all_gone(subject)


def fail_at(subject: Subject, fn: Callable[..., object]) -> tuple[float, ProcessException]:
    """Run ranks one of which fails; return the seconds from then to the exception, and that."""
    error = subject.fail(fn, str(subject.folder))
    told = time.monotonic()
    calls = [subject.stage.read(f"calls {rank}") for rank in range(2)]
    assert calls == [".", "."]
    return told - float(subject.await_cue("failing")), error


def assert_all_gone(subject: Subject) -> None:
    """Fail if a process that ranks have noted, themselves included, still runs."""
    for pid in subject.stage.noted():
        wait_until(partial(is_gone, pid), f"process {pid} runs on", SOON)
