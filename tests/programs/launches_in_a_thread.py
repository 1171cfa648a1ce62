"""Starts a thread where it is imported, which launches once the import in a rank is over."""

from __future__ import annotations

import sys
import threading
import time

from endless import count_body, launch

count_body()


def work(rank: int) -> int:
    return rank


def begin() -> None:
    if __name__ != "__main__":
        while sys.modules["procession._rank.life"].loading:
            time.sleep(0.001)
    launch(work)


thread = threading.Thread(target=begin)
thread.start()
thread.join(None if __name__ == "__main__" else 0)
