"""Interrupts ranks where they call a function of procession; prints what becomes of the launch.

Arguments: the start method; the name of the function.
"""

from __future__ import annotations

import os
import sys
import time
from types import FrameType

from procession import ProcessExitedException, start_processes

CALLER = os.getpid()


def interrupt_at(name: str) -> None:
    """Raise KeyboardInterrupt at the next call of a function, except in the caller."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == name and os.getpid() != CALLER:
            sys.settrace(None)
            os.write(1, b"interrupted\n")
            raise KeyboardInterrupt

    sys.settrace(trace)


def work(rank: int) -> None:
    if rank == 1 and sys.argv[2] == "leave":
        interrupt_at("leave")
    elif rank == 0:
        time.sleep(0.5)


def main() -> None:
    try:
        start_processes(work, nprocs=3, start_method=sys.argv[1])
        print("well", flush=True)
    except ProcessExitedException as error:
        print("exit code", error.exit_code, flush=True)
    finally:
        print("the caller" if os.getpid() == CALLER else "A RANK", flush=True)


if sys.argv[2] != "leave":
    interrupt_at(sys.argv[2])  # in the caller and in its forkserver: both fork
if __name__ == "__main__":
    main()
