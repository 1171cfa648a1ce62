"""Launches where sys.executable is not this interpreter, as in a program that embeds Python.

Usage: embeds_python.py START_METHOD EXECUTABLE [KIND]

EXECUTABLE is what sys.executable is set to before multiprocessing and procession are imported: a path, "none"
or "empty".  With KIND (str, bytes or Path), `multiprocessing.set_executable` is given the real interpreter.
Prints what `list_backends` says of the start method, then the results or the error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

method, how, *kinds = sys.argv[1:]
real, sys.executable = sys.executable, {"none": None, "empty": ""}.get(how, how)  # type: ignore[assignment]
if kinds:
    import multiprocessing

    executables = {"str": real, "bytes": os.fsencode(real), "Path": Path(real)}
    multiprocessing.set_executable(executables[kinds[0]])  # type: ignore[arg-type]
from procession import list_backends, run  # noqa: E402  # sys.executable comes first


def work(rank: int) -> int:
    return rank


if __name__ == "__main__":
    reasons = {one.name: (one.status, one.reason) for one in list_backends()}
    print(*reasons[method])
    try:
        print(run(work, nprocs=2, start_method=method, timeout=30))
    except Exception as error:
        print(type(error).__name__, error)
