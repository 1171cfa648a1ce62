"""Launches after each of two changes of sys.argv; prints what ranks see of it, then and at their import.

Argument: the start method.
"""

from __future__ import annotations

import sys

import standin
from procession import run

seen_at_import = list(sys.argv)


def tell(rank: int) -> tuple[list[str], list[str]]:
    return sys.argv[1:], seen_at_import[1:]


if __name__ == "__main__":
    method = sys.argv[1]
    options = standin.options() if method == "command" else None
    for argument in ("one", "two"):
        sys.argv[1:] = [argument]
        print(*run(tell, nprocs=1, start_method=method, options=options))
