"""Prints what forked ranks do about SIGTERM, which the caller handles, without ``keep_handlers`` and with."""

from __future__ import annotations

import signal

import ranks
from procession import Signals, run

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, print)
    for keep in (False, True):
        signals = Signals(keep_handlers=keep)
        (seen,) = run(ranks.see_handlers, ("SIGTERM",), 1, start_method="fork", signals=signals)
        print(seen["SIGTERM"])
