"""Launches a function of the main module from ranks, by each start method.  Argument: that of these ranks."""

from __future__ import annotations

import sys

from procession import run


def leaf(rank: int) -> int:
    return rank


def middle(rank: int, method: str) -> list[int]:
    return run(leaf, nprocs=2, start_method=method)


if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        print(run(middle, (method,), start_method=sys.argv[1]))
