"""Has ranks take and return objects of this module, run its methods, and raise its exceptions.

Usage: answers.py [in-a-thread] START_METHOD

Other programs than the interpreter run this: the start method is the last argument, whatever precedes it.
With "in-a-thread", a thread launches, and the same thread takes the results later.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from procession import ProcessContext, ProcessRaisedException, run, start_processes


class Answer:
    def __init__(self, value: int) -> None:
        self.value = value


class Odd(Exception):
    pass


class Work:
    def method(self, rank: int, value: Answer, fail: bool = False) -> Answer:
        return work(rank, value, fail)


def work(rank: int, value: Answer, fail: bool = False) -> Answer:
    assert type(value) is Answer
    if fail:
        raise Odd(rank)
    return Answer(value.value + rank)


def main(method: str) -> None:
    for fn in (work, Work().method):
        got = run(fn, (Answer(3),), nprocs=2, start_method=method, timeout=50)
        assert all(type(one) is Answer for one in got), got
        assert [one.value for one in got] == [3, 4]
        try:
            run(fn, (Answer(3), True), nprocs=1, start_method=method, timeout=50)
        except ProcessRaisedException as error:
            (failure,) = error.failures
        assert type(failure.load_exception()) is Odd


def main_in_thread(method: str) -> None:
    def launch() -> ProcessContext:
        return start_processes(
            work, (Answer(3),), 2, join=False, start_method=method, collect_results=True
        )

    with ThreadPoolExecutor(1) as pool:
        context = pool.submit(launch).result()
        got = pool.submit(context.results).result()
    assert all(type(one) is Answer for one in got), got


if __name__ == "__main__":
    if "in-a-thread" in sys.argv:
        main_in_thread(sys.argv[-1])
    else:
        main(sys.argv[-1])
    print("fine")
