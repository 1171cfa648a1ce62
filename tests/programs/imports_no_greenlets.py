"""Prints which modules about greenlets a rank and its caller have imported.  Argument: the start method."""

from __future__ import annotations

import sys

import procession

MODULES = ("procession._python.greenlets", "greenlet")


def look(rank: int) -> list[str]:
    return [name for name in MODULES if name in sys.modules]


if __name__ == "__main__":
    print(procession.run(look, start_method=sys.argv[1]), look(0))
