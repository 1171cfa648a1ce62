"""Blocks SIGTERM, as a service does that waits for it by sigwait(3), and launches a rank.

Argument: the start method.  Prints the signals that it blocks afterwards, and those that its rank blocked.
"""

from __future__ import annotations

import signal
import sys

from procession import run


def see_mask(rank: int) -> list[int]:
    return sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    (seen,) = run(see_mask, (), 1, start_method=sys.argv[1])
    print(see_mask(0), seen)
