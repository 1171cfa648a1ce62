"""Launches where memfd_create(2) is forbidden; prints whether large arguments and results arrive.

Arguments: the start method; the name of the error.
"""

from __future__ import annotations

import errno
import sys
from array import array

import forbidding
from procession import run


def give(rank: int, values: array[float]) -> tuple[bytes, int]:
    return bytes(100_000), len(values)


if __name__ == "__main__":
    forbidding.forbid("memfd_create", getattr(errno, sys.argv[2]))
    numbers = array("d", range(100_000))
    results = run(give, (numbers,), 2, start_method=sys.argv[1])
    print(results == [(bytes(100_000), 100_000)] * 2)
