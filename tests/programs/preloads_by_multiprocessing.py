"""Prints whether ranks have the module of multiprocessing's preload list.

With an argument, the list is set by a context of multiprocessing.
"""

from __future__ import annotations

import multiprocessing
import sys

from procession import run


def see(rank: int) -> bool:
    return "wave" in sys.modules


if __name__ == "__main__":
    preload = ["__main__", "wave"]
    if sys.argv[1:]:
        multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    else:
        multiprocessing.set_forkserver_preload(preload)
    print(run(see, nprocs=2, start_method="forkserver"))
