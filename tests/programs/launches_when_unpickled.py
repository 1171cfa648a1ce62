"""Launches with an argument that launches where it is unpickled."""

from __future__ import annotations

from collections.abc import Callable

from endless import count_body, launch

count_body()


class Value:
    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return make, ()


def make() -> object:
    return launch(work, Value())


def work(rank: int, value: Value) -> int:
    return rank


if __name__ == "__main__":
    launch(work, Value())
