"""Has ranks put objects of this module into a queue.  The last argument is the start method."""

from __future__ import annotations

import sys
from typing import Any

from procession import get_context, run


class Answer:
    pass


def work(rank: int, queue: Any) -> None:
    queue.put(Answer())


if __name__ == "__main__":
    queue: Any = get_context(sys.argv[-1]).SimpleQueue()
    run(work, (queue,), nprocs=2, start_method=sys.argv[-1], timeout=50)
    assert type(queue.get()) is type(queue.get()) is Answer
    print("fine")
