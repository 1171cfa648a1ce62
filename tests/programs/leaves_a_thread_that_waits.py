"""Ends while a daemon thread waits for daemonic ranks.  Argument: the start method."""

from __future__ import annotations

import sys
import threading
import time

from procession import start_processes


def work(rank: int) -> None:
    time.sleep(60)


if __name__ == "__main__":
    context = start_processes(work, nprocs=2, join=False, daemon=True, start_method=sys.argv[1])
    threading.Thread(target=context.wait, daemon=True).start()
    time.sleep(0.1)
