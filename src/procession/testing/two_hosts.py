"""The class that certifies a backend whose ranks run on two hosts, which `hosts` provides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from procession.exceptions import ProcessExitedException
from procession.protocol import Backend
from procession.testing import remote_ranks
from procession.testing.hosts import FarHost, far_host, why_none
from procession.testing.remote import SOON, assert_all_gone, fail_at
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until

CUT_OFF = 15.0
"""Seconds within which a rank on an unreachable host must be reported as lost, and must have ended."""


class TwoHostConformance:
    """The tests that a backend must pass with rank 0 on this host and rank 1 on another."""

    @pytest.fixture(scope="class")
    @classmethod
    def far(cls) -> Iterator[FarHost]:
        """Return the second host."""
        reason = why_none()
        if reason:
            pytest.skip(reason)
        with far_host() as host:
            yield host

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend to certify: override this."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest.fixture
    def launch_options(self, far: FarHost) -> Mapping[str, Any]:
        """Return the options with which rank 1 of 2 is on the second host: override this."""
        raise NotImplementedError("override the fixture `launch_options`")

    @pytest.fixture
    def subject(
        self, backend: Backend, launch_options: Mapping[str, Any], tmp_path: Path
    ) -> Subject:
        """Return the backend, as the tests use it."""
        return Subject(backend, launch_options, tmp_path, here=True)

    def test_ranks_are_on_two_hosts(self, subject: Subject, far: FarHost) -> None:
        """The ranks have the addresses of two hosts, and rank 1 can connect to rank 0."""
        where = subject.run(remote_ranks.list_addresses)
        assert far.far_address not in where[0]
        assert far.far_address in where[1]
        assert subject.run(remote_ranks.meet) == [2, 1]

    def test_an_all_reduce(self, subject: Subject) -> None:
        """torch.distributed works with gloo, by MASTER_ADDR and MASTER_PORT as they are set."""
        pytest.importorskip("torch", reason="pip install torch==2.13.0")
        assert subject.run(remote_ranks.all_reduce) == [3.0, 3.0]

    def test_a_rank_that_is_killed_on_the_far_host(self, subject: Subject) -> None:
        """The caller gets the signal that killed a rank on the far host; nothing is left."""
        took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "rank"))
        assert isinstance(error, ProcessExitedException)
        assert (error.error_index, error.signal_name) == (1, "SIGKILL")
        assert took < SOON
        assert_all_gone(subject)

    def test_a_cable_that_is_cut(self, subject: Subject, far: FarHost) -> None:
        """The rank behind a cut cable is reported as lost, the other one is stopped, and both end."""
        with subject.start(remote_ranks.sleep, str(subject.folder)) as context:
            for rank in range(2):
                subject.await_cue(f"asleep {rank}")
            far.cut()
            begun = time.monotonic()
            try:
                with pytest.raises(ProcessExitedException) as caught:
                    context.wait()
                assert time.monotonic() - begun < CUT_OFF
                root = caught.value.failures[0]
                assert (root.rank, root.kind) == (1, "lost")
                pid = context.pids()[1]
                left = max(begun + CUT_OFF - time.monotonic(), 0)
                wait_until(partial(is_gone, pid), "the rank that is cut off runs on", left)
            finally:
                far.mend()
        assert_all_gone(subject)
