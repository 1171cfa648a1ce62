"""Launches from an event loop that handles signals, and sends each rank SIGUSR1.

Argument: the module that makes the loop.  Prints the exit codes of the ranks, the signals that the loop
handled, and the signal of the failure.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys

from procession import ProcessExitedException, start_processes


def raise_usr1(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


async def main() -> None:
    called: list[int] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, called.append, number)
    options = {"fork_check": "off"}
    context = start_processes(raise_usr1, (), 2, join=False, start_method="fork", options=options)
    for process in context.processes:
        process.join()
    await asyncio.sleep(0.05)  # the loop reads its wakeup socket
    print([process.exitcode for process in context.processes], called)
    try:
        await context
    except ProcessExitedException as error:
        print(error.signal_name)


if __name__ == "__main__":
    loop = importlib.import_module(sys.argv[1]).new_event_loop()
    loop.run_until_complete(main())
    loop.close()
