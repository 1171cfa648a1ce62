"""Launches in a process whose children are reaped by the kernel or by a foreign thread.

Usage: launches_while_children_are_reaped.py HOW START_METHOD, where HOW is ``ignored`` or ``foreign``.

Prints the rank and the exit code of each failure.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import ranks
from procession import ProcessExitedException, run, start_processes


def reap() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass


def main(how: str, start_method: str) -> None:
    if how == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:
        threading.Thread(target=reap, daemon=True).start()
    assert run(ranks.give, nprocs=3, start_method=start_method) == [(0,), (1,), (2,)]
    for fault in "exit 3", "_exit 7", "SIGKILL":
        try:
            start_processes(ranks.fail_in, (1, fault), 2, start_method=start_method)
        except ProcessExitedException as error:
            print(error.error_index, error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
