"""Says that this process and the ranks of each start method import the copy, which has a file named COPY."""

from __future__ import annotations

import os

import procession

COPY = "a-copy-for-mutants"


def is_copy(rank: int = 0) -> bool:
    """Whether this process imports the copy."""
    return os.path.exists(os.path.join(os.path.dirname(procession.__file__), COPY))


if __name__ == "__main__":
    found = [
        procession.run(is_copy, nprocs=1, start_method=one)
        for one in ("fork", "spawn", "forkserver")
    ]
    assert [is_copy(), *found] == [True, [True], [True], [True]], found
