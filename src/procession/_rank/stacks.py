"""Offers a rank's Python stacks to its caller, even while the rank is deadlocked or stuck in C.

The rank answers into a memory file that the caller opens through /proc (`_supervise.stack_request` asks).
Reading frames while they change can crash a process, so there are two kinds of answer, each asked for by its
own signals.  A handler in Python holds the GIL while it reads, so nothing changes.  A handler in C
(`faulthandler`) answers where Python cannot run, and is asked only then.  Ranks import this module: at its
top it imports only os and sys.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "procession-stacks"
"""The name of the memory file."""

BEGIN, END = b"\x02", b"\x03"
"""The bytes before and after an answer from Python."""

_system = sys.modules[os.name]  # its functions stay original where those of `os` are patched
_offered = -1  # the file of this rank, or of the rank that forked this process
_faulthandler: Any


def signal_numbers() -> tuple[int, int, int]:
    """Return the signals that ask Python, C for all threads, and C for the thread that gets the signal.

    They are real-time signals that are hardly used otherwise: the last but one, and the two before it.
    """
    # without the enums of `signal`, which every rank would pay for
    last: int = __import__("_signal").SIGRTMAX
    return last - 1, last - 2, last - 3


def offer() -> None:
    """Make this rank write its stacks when it is asked to."""
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
        module.siginterrupt(asks_python, False)  # C code may not expect EINTR
        if old >= 0:
            os.close(old)
    except (AttributeError, ImportError, OSError, RuntimeError, ValueError):
        pass  # no such file or signal here: a rank without stacks is no reason to fail


def _answer(*_: object) -> None:
    try:
        _system.write(_offered, BEGIN)
        _faulthandler.dump_traceback(_offered, all_threads=True)
        _system.write(_offered, END)
    except (OSError, RuntimeError, ValueError):  # user code closed the file
        pass
