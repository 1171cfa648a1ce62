"""Launches 25 ranks where a process may have 64 descriptors.  Argument: the start method."""

from __future__ import annotations

import resource
import sys

from procession import run


def give(rank: int) -> int:
    return rank


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    assert run(give, nprocs=25, start_method=sys.argv[1]) == list(range(25))
