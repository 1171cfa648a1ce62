"""Prints the results of two ranks, which are their numbers.  Argument: the start method."""

from __future__ import annotations

import sys

from procession import run


def give(rank: int) -> int:
    return rank


if __name__ == "__main__":
    print(run(give, nprocs=2, start_method=sys.argv[1]))
