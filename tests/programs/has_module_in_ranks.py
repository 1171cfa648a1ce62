"""Prints whether ranks have imported a module.  Arguments: the start method, the module."""

from __future__ import annotations

import sys

from procession import run


def has(rank: int, name: str) -> bool:
    return name in sys.modules


if __name__ == "__main__":
    print(run(has, (sys.argv[2],), start_method=sys.argv[1]))
