"""Launches four ranks on a forkserver that dies as it forks the third; prints whether the failure says so.

Usage: server_dies_while_it_forks.py BEGUN, a file that a rank makes if it begins.  The environment has what
`faulty_fork` needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from procession import start_processes


def work(rank: int, begun: str) -> None:
    Path(begun).touch()


if __name__ == "__main__":
    options = {"preload": ["faulty_fork"]}
    try:
        start_processes(work, (sys.argv[1],), 4, start_method="forkserver", options=options)
    except ChildProcessError as error:
        print("ended with exit code -9" in str(error))
