"""Runs lambdas, functions made in functions and local classes.  Argument: the start method.

What is defined under the guard at the end exists in the caller alone.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import standin
from procession import run

LOCK = threading.Lock()  # cannot be pickled: a function that goes by value must leave it behind
COUNT = [0]


class Value:
    def __init__(self, number: int) -> None:
        self.number = number

    def describe(self) -> str:
        return f"value {self.number}"


def twice(value: Value) -> Value:
    COUNT[0] += 1
    return Value(value.number * 2)


def count_calls(rank: int, *fns: Callable[[int], object]) -> int:
    for fn in fns:
        fn(rank)
    return COUNT[0]


def make(value: Value) -> Any:
    class Local:
        def __init__(self, other: int) -> None:
            self.other = other

    def inner(rank: int) -> tuple[int, Value, Local, bool]:
        return inner_most(rank), twice(value), Local(rank), inner is not None

    def inner_most(rank: int) -> int:
        with LOCK:
            return rank + value.number

    return inner, Local


if __name__ == "__main__":
    method = sys.argv[1]
    options: dict[str, Any] = {"nprocs": 2, "start_method": method, "timeout": 50}
    if method == "command":
        options["options"] = standin.options()
    assert run(lambda rank: rank, **options) == [0, 1]

    under_guard = 10

    class Guarded:
        pass

    def helper(rank: int) -> tuple[int, Guarded]:
        return rank + under_guard, Guarded()

    got = run(lambda rank: helper(rank), **options)  # noqa: PLW0108  # a lambda is the point
    assert [one[0] for one in got] == [10, 11]
    assert all(type(one[1]) is Guarded for one in got)

    inner, local_class = make(Value(5))
    for number, value, local, itself in run(inner, **options):
        assert type(value) is Value
        assert value.number == 10
        assert (
            type(local) is local_class or method == "fork"
        )  # a fork's copy of a class has no name
        assert number == 5 + local.other
        assert itself
    assert run(functools.partial(lambda a, rank: a + rank, 4), **options) == [4, 5]

    def take(rank: int, value: Value, local: Any) -> tuple[Value, Any]:
        return value, local

    (value, local), _ = run(take, (Value(1), local_class(2)), **options)
    assert type(value) is Value
    assert local.other == 2
    assert type(local) is local_class or method == "fork"

    # what goes by value shares the globals of this file with what goes by name
    fns = (lambda rank: twice(Value(1)), lambda rank: COUNT.append(0))
    assert run(count_calls, fns, **options) == [1, 1]
    (lambda_, bound), _ = run(
        lambda rank: ((lambda: rank + under_guard), Value(rank).describe),
        **options,
    )
    assert lambda_() == 10
    assert bound() == "value 0"
    print("fine")
