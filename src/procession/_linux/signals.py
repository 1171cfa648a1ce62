"""Names of signals, including real-time ones."""

from __future__ import annotations

import signal


def name_signal(number: int) -> str:
    """Return the name of a signal, as torch writes it if the signal has a name.

    >>> name_signal(9)
    'SIGKILL'
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", 0)
        if first and first < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - first}"
        return f"<Unknown signal {number}>"
