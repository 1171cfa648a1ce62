"""Prints a line where it is imported; has a rank return an object of a class of this module.

Argument: the start method.
"""

from __future__ import annotations

import os
import sys

from procession import run

print("imported", __name__)


class Value:
    def __init__(self, number: int) -> None:
        self.number = number


def double(rank: int, value: Value) -> Value:
    return Value(value.number * 2)


if __name__ == "__main__":
    (result,) = run(double, (Value(4),), start_method=sys.argv[1])
    assert type(result) is Value
    print(result.number)
    run(os.getpgid, start_method=sys.argv[1])
