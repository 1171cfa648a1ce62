"""The function of a call is found inside partials, and in nothing else that has an attribute ``func``.

Promise: Bad input is named before anything starts.
"""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import MagicMock

import pytest

from procession import run
from procession._python.functions import unwrap
from procession._rank.rebuild import CallPerRank


def add(rank: int, first: int = 0, second: int = 0) -> int:
    return rank + first + second


class Task:
    """Has attributes of the names that a partial has."""

    def __init__(self, func: Any, keywords: Any) -> None:
        self.func, self.keywords = func, keywords

    def __call__(self, rank: int) -> int:
        return rank + 1


class Fluent:
    """Returns itself for any attribute that is not special."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, rank: int) -> int:
        return rank + 1


def make_own() -> Task:
    task = Task(None, ["a", "list"])
    task.func = task
    return task


@pytest.mark.parametrize("make", [make_own, Fluent], ids=["itself", "fluent"])
def test_an_attribute_of_that_name_is_not_followed(make: Any, start_method: str) -> None:
    assert run(make(), nprocs=2, start_method=start_method) == [1, 2]


def test_a_mock_is_a_function_to_ranks_that_are_forked() -> None:
    assert run(MagicMock(return_value=3), nprocs=1, start_method="fork") == [3]


def test_partials_are_followed_and_their_keywords_kept() -> None:
    inner = functools.partial(add, second=5)
    outer = CallPerRank(functools.partial(inner, first=7), [(), ()])
    assert unwrap(outer) == (add, [5, 7])
    assert run(functools.partial(inner, first=7), nprocs=2, start_method="fork") == [12, 13]
