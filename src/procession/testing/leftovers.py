"""Tests that nothing is left after success, failure, a stop, a failed start, or the death of the caller."""

from __future__ import annotations

import gc
import os
import signal
from functools import partial

import pytest

from procession.exceptions import ProcessException
from procession.testing import callers, ranks
from procession.testing.resources import find_left, take_stock
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until


class Leftovers:
    """Tests that no process, descriptor, thread or shared memory stays."""

    @pytest.mark.parametrize("kind", ["child", "descriptor", "thread", "memory"])
    def test_nothing_is_left(self, subject: Subject, kind: str) -> None:
        """Launches that succeed, fail and are stopped leave nothing of this kind."""
        subject.need_local()
        launch_thrice(subject)  # starts what stays for all launches
        before = take_stock(kind)
        launch_thrice(subject)
        gc.collect()  # the traceback of an exception may keep a launch's objects
        left = find_left(partial(take_stock, kind), before)
        assert not left, f"left behind: {sorted(left)}"

    def test_a_start_that_fails_leaves_no_rank(self, subject: Subject) -> None:
        """With too few descriptors for all ranks, the launch fails and no rank runs on."""
        subject.need_local()
        caller = callers.start(subject, callers.run_out_of_descriptors)
        lines = callers.finish(subject, caller)
        assert caller.returncode == 0
        assert lines[-1] == b"children: 0", lines

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
    def test_ranks_end_with_their_caller(self, subject: Subject, number: int) -> None:
        """Ranks end within 2 s of their caller's death, which cannot tell them."""
        subject.need("descendants")
        subject.need_local()
        caller = callers.start(subject, callers.launch_workers)
        try:
            pids = [int(subject.await_cue(f"rank {rank}")) for rank in range(2)]
        finally:
            os.kill(caller.pid, number)
            caller.wait()
        for pid in pids if min(pids) > 1 else ():  # a pid of another namespace means nothing here
            wait_until(partial(is_gone, pid), f"rank {pid} runs on", 2)


def launch_thrice(subject: Subject) -> None:
    """Make three launches: one succeeds, one fails, and one is stopped."""
    assert subject.start(ranks.nothing).wait()
    with pytest.raises(ProcessException):
        subject.start(ranks.raise_, 1).wait()
    subject.start(ranks.work, str(subject.folder)).terminate()
