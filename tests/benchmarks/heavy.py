"""A main module whose import takes half a second, like that of a script that imports a framework.

It is the ``__main__`` of a contestant's worker (worker.py) in the heavy rows, and defines the function that
ranks call: a launcher that imports the main module in its ranks pays for this one.
"""

from __future__ import annotations

import time

SECONDS = 0.5

begun = time.process_time()
while time.process_time() - begun < SECONDS:
    pass


def nothing(rank: int) -> None:
    """Do nothing, like `work.nothing`, as a function of the main module."""


if __name__ == "__main__":
    from worker import main

    main()
