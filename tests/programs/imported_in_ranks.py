"""Prints whether ranks of a forkserver share the import of this module, and of another, with their server.

Argument: the option ``preload_main``, True or False.  The other module is ``theirs``, which the test writes.
"""

from __future__ import annotations

import sys

import theirs  # type: ignore[import-not-found]

from procession import run

where = theirs.os.getpid()


def tell(rank: int) -> bool:
    return bool(where != theirs.os.getpid())


if __name__ == "__main__":
    options = {"preload_main": sys.argv[1] == "True"}
    print(*(run(fn, start_method="forkserver", options=options) for fn in (tell, theirs.tell)))
