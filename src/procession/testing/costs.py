"""Cost sanity, by counting: nothing grows faster than the number of ranks."""

from __future__ import annotations

import os
import sys
from types import FrameType

from procession.context import ProcessContext
from procession.testing import ranks
from procession.testing.subject import Subject

_FEW, _TWICE, _MANY = 4, 8, 16  # ranks
_SLACK = 1.5  # by how much a further rank may cost more than the ones before it did


class Costs:
    """What a launch costs its caller."""

    def test_start_is_linear_in_the_number_of_ranks(self, subject: Subject) -> None:
        """In function calls: of the 9th to 16th rank, `start` makes about as many as of the 5th to 8th."""
        count_calls(subject, _MANY)  # what it does once for all launches is done now
        few, twice, many = (count_calls(subject, nprocs) for nprocs in (_FEW, _TWICE, _MANY))
        before, after = (twice - few) / (_TWICE - _FEW), (many - twice) / (_MANY - _TWICE)
        assert after <= _SLACK * max(before, 1), f"calls for 4, 8, 16 ranks: {few}, {twice}, {many}"

    def test_args_are_pickled_at_most_once_a_rank(self, subject: Subject) -> None:
        """Once a launch is better."""
        ranks.CountsPickling.pickled = 0
        subject.run(ranks.give, ranks.CountsPickling(), nprocs=_FEW)
        assert ranks.CountsPickling.pickled <= _FEW

    def test_a_rank_costs_two_descriptors(self, subject: Subject) -> None:
        """At most, in its caller."""
        subject.need_local()
        subject.run(ranks.nothing)  # what stays for all launches is there now
        counts = []
        for nprocs in (_FEW, _TWICE):
            before = count_descriptors()
            with subject.start(ranks.work, str(subject.folder), nprocs=nprocs):
                counts.append(count_descriptors() - before)
        assert counts[1] - counts[0] <= 2 * (_TWICE - _FEW)


def count_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def count_calls(subject: Subject, nprocs: int) -> int:
    """Return how many functions a start calls in this thread, of Python's and of C's."""
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
