"""Sends forked ranks a signal as soon as they exist, while the caller handles it and has a wakeup descriptor.

Argument: the signal.  Prints the cause of the failure, and whether anything was written to the wakeup
descriptor.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from procession import ProcessExitedException, ProcessRaisedException, start_processes


def work(rank: int) -> None:
    raise AssertionError("the signal has not come")


def handle(*_: object) -> None:
    os.write(1, b"the caller's handler\n")


if __name__ == "__main__":
    number = getattr(signal, sys.argv[1])
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())
    signal.signal(number, handle)
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), number))
    try:
        start_processes(work, nprocs=2, start_method="fork")
    except ProcessExitedException as error:
        print(error.signal_name)
    except ProcessRaisedException as error:
        print(str(error).splitlines()[-1])
    try:
        print("woken", ours.recv(9))
    except BlockingIOError:
        print("asleep")
