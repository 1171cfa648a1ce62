"""Hangs where a rank, or a forkserver, imports it as the main module; prints what its launch gives.

Usage: hangs_as_main_module.py START_METHOD
"""

from __future__ import annotations

import sys
import time

if __name__ == "__mp_main__":
    time.sleep(600)

from procession import ProcessTimeoutError, run


def work(rank: int) -> int:
    return rank


if __name__ == "__main__":
    try:
        print(run(work, (), 2, start_method=sys.argv[1], timeout=1))
    except ProcessTimeoutError:
        print("late")
