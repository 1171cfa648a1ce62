"""Names of signals, real-time ones too."""

from __future__ import annotations

import signal


def name_signal(number: int) -> str:
    """Return the name of a signal, as torch writes it where the signal has a name of its own.

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
