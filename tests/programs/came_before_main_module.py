"""Prints whether an entry's module was imported before this main module in a rank.  Argument: a start method.

The entry is ``nothing`` of the module ``first``, which the test writes.
"""

from __future__ import annotations

import sys

from procession import run
from through import Through

came_after = "first" in sys.modules


def tell(rank: int) -> bool:
    return came_after


if __name__ == "__main__":
    base = sys.argv[1]
    options = {"preload_main": False} if base == "forkserver" else {}
    backend = Through(base, ("first:nothing", None), options=options)
    print(run(tell, start_method=backend, options=options))
