"""Has a rank raise what cannot be pickled, and print whether it has imported cloudpickle.

Argument: the start method.
"""

from __future__ import annotations

import atexit
import sys
import threading

from procession import ProcessRaisedException, run


class Odd(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()


def say() -> None:
    print("imported" if "cloudpickle" in sys.modules else "spared")


def fail(rank: int) -> None:
    atexit.register(say)
    raise Odd


if __name__ == "__main__":
    try:
        run(fail, start_method=sys.argv[1])
    except ProcessRaisedException as error:
        print(error.failures[0].type_name)
