"""Closes some of its standard streams, then launches; writes the results to a file.

The file also has the process id of this process's resource tracker.
Arguments: the start method; the file; the descriptors to close.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import resource_tracker
from typing import Any

from procession import run


def give(rank: int) -> int:
    return rank


def main(method: str, path: str, *numbers: str) -> None:
    for number in numbers:
        os.close(int(number))
    results = run(give, nprocs=2, start_method=method)
    tracker: Any = resource_tracker
    with open(path, "w") as file:
        print(results, tracker._resource_tracker._pid, file=file)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
