"""A main module that is expensive to import, as scripts are that import a framework: half a second.

It is the ``__main__`` of a contestant's worker (worker.py) in the heavy rows, and defines what the ranks
call: whoever needs a main module in its ranks pays for this one.
"""

from __future__ import annotations

import time

SECONDS = 0.5

begun = time.process_time()
while time.process_time() - begun < SECONDS:
    pass


def nothing(rank: int) -> None:
    """Do nothing, as `work.nothing` does, but here."""


if __name__ == "__main__":
    from worker import main

    main()
