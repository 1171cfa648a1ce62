"""Launches four ranks three times, one launch after another; prints the results of each.

Usage: launches_three_times.py START_METHOD FOLDER SECONDS

Each rank makes a file in the folder that is named as its process id, and works for so many seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from procession import run


def work(rank: int, folder: str, seconds: float) -> int:
    Path(folder, str(os.getpid())).touch()
    time.sleep(seconds)
    return rank


def main(start_method: str, folder: str, seconds: str) -> None:
    for _ in range(3):
        print(run(work, (folder, float(seconds)), 4, start_method=start_method), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
