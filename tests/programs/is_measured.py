"""Ranks that end in several ways, for a measurement of which of these lines run.

Arguments: the start method; how they end ("elsewhere": they return, in another folder).
The tests of measuring find lines by their text: each of those occurs once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from procession import run, start_processes


def work(rank: int, how: str) -> int:
    before = rank
    if how == "raises":
        raise_it()
    if how == "exits":
        sys.exit(3)
    if how == "is stopped":
        if rank == 0:
            while not Path("ready").exists():
                pass
            raise ValueError("boom")
        Path("ready").touch()
        threading.Event().wait()
    if how == "nests":
        run(inner, nprocs=1, start_method=sys.argv[1])
    return before


def raise_it() -> None:
    raise ValueError("boom")


def inner(rank: int) -> int:
    deep = rank
    return deep  # noqa: RET504  # two lines, of which one is looked for


if __name__ == "__main__":
    if sys.argv[2] == "elsewhere":
        os.chdir("folder")
    try:
        start_processes(work, (sys.argv[2],), 2, start_method=sys.argv[1])
    except Exception as error:
        print(type(error).__name__)
