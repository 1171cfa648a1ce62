"""Changes rights or settings of its own; prints for each of two ranks what differs from it.

Arguments: the start method; the change (`rights.change`); the folder to enter with a change of user.
"""

from __future__ import annotations

import sys

import rights
from procession import run


def main(method: str, *change: str) -> None:
    run(rights.facts, nprocs=1, start_method=method)
    rights.change(*change)
    own = rights.facts(0)
    for one in run(rights.facts, nprocs=2, start_method=method):
        print({name: (own[name], one[name]) for name in own if own[name] != one[name]})


if __name__ == "__main__":
    main(*sys.argv[1:])
