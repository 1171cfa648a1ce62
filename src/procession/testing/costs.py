"""Counts what a launch costs: nothing may grow faster than the number of ranks."""

from __future__ import annotations

import os
import sys
from types import FrameType

from procession.context import ProcessContext
from procession.testing import ranks
from procession.testing.subject import Subject

_FEW, _TWICE, _MANY = 4, 8, 16  # ranks
_SLACK = 1.5  # how many times as much each of the last ranks may cost


class Costs:
    """Tests of what a launch costs its caller."""

    def test_start_is_linear_in_the_number_of_ranks(self, subject: Subject) -> None:
        """`start` makes about as many function calls a rank for ranks 9 to 16 as for ranks 5 to 8."""
        count_calls(subject, _MANY)  # does what is done once for all launches
        few, twice, many = (count_calls(subject, nprocs) for nprocs in (_FEW, _TWICE, _MANY))
        before, after = (twice - few) / (_TWICE - _FEW), (many - twice) / (_MANY - _TWICE)
        assert after <= _SLACK * max(before, 1), f"calls for 4, 8, 16 ranks: {few}, {twice}, {many}"

    def test_args_are_pickled_at_most_once_a_rank(self, subject: Subject) -> None:
        """Args are pickled at most once a rank; once a launch is better."""
        ranks.CountsPickling.pickled = 0
        subject.run(ranks.give, ranks.CountsPickling(), nprocs=_FEW)
        assert ranks.CountsPickling.pickled <= _FEW

    def test_a_rank_costs_two_descriptors(self, subject: Subject) -> None:
        """A further rank takes at most two descriptors in its caller."""
        subject.need_local()
        subject.run(ranks.nothing)  # opens what stays for all launches
        counts = []
        for nprocs in (_FEW, _TWICE):
            before = count_descriptors()
            with subject.start(ranks.work, str(subject.folder), nprocs=nprocs):
                counts.append(count_descriptors() - before)
        assert counts[1] - counts[0] <= 2 * (_TWICE - _FEW)


def count_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def count_calls(subject: Subject, nprocs: int) -> int:
    """Return how many functions, of Python and of C, `start` calls in this thread."""
    calls = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    launch = subject.launch(ranks.nothing, nprocs=nprocs)
    sys.setprofile(note)
    try:
        started = subject.backend.start(launch)
    finally:
        sys.setprofile(before)
    assert ProcessContext._of_launch(launch, started).wait()
    return calls
