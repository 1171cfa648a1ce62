"""Closes all descriptors by their numbers between two launches.  Argument: the start method."""

from __future__ import annotations

import os
import sys

from procession import run


def give(rank: int) -> int:
    return rank


if __name__ == "__main__":
    run(give, nprocs=2, start_method=sys.argv[1])
    os.closerange(3, 256)
    print(run(give, nprocs=2, start_method=sys.argv[1]))
