"""Launches in a thread of a process that eventlet has patched; prints the outcomes.

Argument: a file that ranks wait for.
"""

# ruff: noqa: E402  # eventlet patches before the imports that it is meant for

from __future__ import annotations

import sys
import warnings

warnings.simplefilter("ignore")

import eventlet

eventlet.monkey_patch()

import os
import threading
import time

from procession import ProcessRaisedException, ProcessTimeoutError, run


def work(rank: int, how: str = "") -> int:
    while how.startswith("/") and not os.path.exists(how):
        time.sleep(0.01)
    if how == "raise":
        raise ValueError("as asked")
    if how == "hang":
        time.sleep(60)
    return rank


def launch(cue: str) -> None:
    waiting = [eventlet.spawn(run, work, (cue,), nprocs=2) for _ in range(2)]
    eventlet.sleep(0.01)
    open(cue, "w").close()
    print([one.wait() for one in waiting])
    for how in ("raise", "hang"):
        try:
            run(work, (how,), nprocs=2, timeout=5)
        except (ProcessRaisedException, ProcessTimeoutError) as error:
            print(type(error).__name__, "as asked" in str(error))


if __name__ == "__main__":
    thread = threading.Thread(target=launch, args=sys.argv[1:])
    thread.start()
    thread.join()
