"""Tells exceptions that a signal handler raised from those of the code that it interrupted."""

from __future__ import annotations


def came_from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised an exception, in the middle of whatever it interrupted.

    Python calls a handler with the interrupted frame, which is the frame above it in the traceback
    (`signal.signal`).
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        interrupted, trace = trace.tb_frame, trace.tb_next
        for value in trace.tb_frame.f_locals.values():
            if value is interrupted or (type(value) is tuple and interrupted in value):
                return True
    return False
