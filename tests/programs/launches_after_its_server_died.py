"""Kills its forkserver and launches once more, with SIGPIPE at its default; prints the result."""

from __future__ import annotations

import os
import signal
import time

from procession import run
from procession.testing.scratch import is_gone


def give(rank: int) -> int:
    return rank


def get_parent(rank: int) -> int:
    return os.getppid()


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    (server,) = run(get_parent, start_method="forkserver")
    os.kill(server, signal.SIGKILL)
    while not is_gone(server):
        time.sleep(0.001)
    print(run(give, start_method="forkserver"))


if __name__ == "__main__":
    main()
