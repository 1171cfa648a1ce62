"""A rank's offer of its Python stacks, which can be had while it is deadlocked or stuck in C.

It answers into a file in memory that the launcher opens through /proc (`_supervise.stack_request` asks).
To read frames while they change can crash a process, so that there are two ways to ask, by
signals.  A handler in Python holds the GIL while it reads: nothing changes.  One in C (`faulthandler`)
answers where Python cannot run, and is asked only then.  Ranks import this module: it imports nothing at
its top but os and sys.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "procession-stacks"
"""The name of the file in memory."""

BEGIN, END = b"\x02", b"\x03"
"""What an answer from Python stands between."""

_system = sys.modules[os.name]  # whose functions stay, whatever replaces those of `os`
_offered = -1  # the file of the rank that this process is, or was forked from
_faulthandler: Any


def signal_numbers() -> tuple[int, int, int]:
    """Return the signals that ask Python, C for all threads, and C for the thread that gets it.

    They are real-time signals that nobody else uses: the last but one, and those before it.
    """
    # what `signal` is made of, without the enums that every rank would pay for
    last: int = __import__("_signal").SIGRTMAX
    return last - 1, last - 2, last - 3


def offer() -> None:
    """Have this rank write its stacks when it is asked to."""
    global _offered, _faulthandler
    try:
        import faulthandler

        from procession._python.fd_numbers import lift

        module = __import__("_signal")
        old, fd = _offered, lift(os.memfd_create(FILE, os.MFD_CLOEXEC))
        asks_python, asks_all, asks_one = signal_numbers()
        faulthandler.register(asks_all, file=fd, all_threads=True)
        faulthandler.register(asks_one, file=fd, all_threads=False)
        _faulthandler, _offered = faulthandler, fd
        module.signal(asks_python, _answer)
        module.siginterrupt(asks_python, False)  # C code need not expect EINTR
        if old >= 0:
            os.close(old)
    except (AttributeError, ImportError, OSError, RuntimeError, ValueError):
        pass  # no such file or signal here: stacks are a help, and no reason to fail


def _answer(*_: object) -> None:
    try:
        _system.write(_offered, BEGIN)
        _faulthandler.dump_traceback(_offered, all_threads=True)
        _system.write(_offered, END)
    except (OSError, RuntimeError, ValueError):  # someone closed the file
        pass
