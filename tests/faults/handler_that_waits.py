"""A caller in which a signal handler waits for ranks that the interrupted thread is stopping.

Usage: handler_that_waits.py START_METHOD WHERE, where WHERE is ``terminate`` for a signal that comes as a
rank gets SIGTERM, or ``begin`` for one that comes as the stop begins.

Prints ``ended`` once the ranks have ended.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from typing import Any

from procession import start_processes
from procession._supervise import launches, supervisor

SECONDS = 50.0
"""How long the caller may run, in seconds; then it prints the stacks of its deadlock."""


def work(rank: int) -> None:
    time.sleep(600)


def interrupt(target: Any, name: str) -> None:
    """Raise a signal inside a method, once, after the thread that waits has woken up."""
    real = getattr(target, name)

    def call(*args: Any, **keywords: Any) -> Any:
        setattr(target, name, real)
        for one in launches.list_running():
            one.waiter.wake()
        time.sleep(0.2)
        signal.raise_signal(signal.SIGUSR1)
        return real(*args, **keywords)

    setattr(target, name, call)


def main(start_method: str, where: str) -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    context = start_processes(work, nprocs=2, join=False, start_method=start_method, timeout=1)
    signal.signal(signal.SIGUSR1, lambda *_: context.terminate())
    waiting = threading.Thread(target=swallow, args=(context,), daemon=True)
    waiting.start()
    if where == "terminate":
        interrupt(context.processes[0], "terminate")
    else:
        time.sleep(
            0.9
        )  # the deadline then passes while this thread begins a stop, as the other wants to
        interrupt(supervisor, "debug")  # called as the stop begins, with its lock held
    context.terminate()
    waiting.join()
    print("ended")


def swallow(context: Any) -> None:
    try:
        context.wait()
    except TimeoutError:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
