"""Launches for the first time from six threads at once; prints whether all results are right.

Argument: the start method.
"""

from __future__ import annotations

import sys
import threading

from procession import run


def give(rank: int) -> int:
    return rank


def launch(barrier: threading.Barrier, answers: list[list[int]]) -> None:
    barrier.wait()
    options = {"fork_check": "off"} if sys.argv[1] == "fork" else None
    answers.append(run(give, nprocs=2, start_method=sys.argv[1], options=options))


def main() -> None:
    sys.setswitchinterval(1e-5)
    barrier = threading.Barrier(6)
    answers: list[list[int]] = []
    threads = [threading.Thread(target=launch, args=(barrier, answers)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(answers == [[0, 1]] * 6)


if __name__ == "__main__":
    main()
