"""Identifies the tests of the kit, so that the summary knows which of them a run selected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

Key: TypeAlias = tuple[object, ...]
"""A test of the kit: the name of its function, and the kit's own parameters of it."""


def name_of(item: Any) -> str:
    """Return the name of a test's function."""
    return str(getattr(item, "originalname", item.name))


def key_of(item: Any, kit: type) -> Key | None:
    """Return which test of the kit this is; None if the backend's author overrides it or skips it."""
    name = name_of(item)
    if getattr(kit, name, None) is not getattr(item.cls, name):
        return None
    if item.get_closest_marker("skip") or item.get_closest_marker("skipif"):
        return None
    given = _parameters_of(item)
    return name, *(str(given.get(argument)) for argument, _ in _parametrized(kit, name))


def backend_of(item: Any, kit: type) -> Key:
    """Return what identifies the backend of a test: the class, and the parameters that its author added."""
    own = {argument for argument, _ in _parametrized(kit, name_of(item))}
    others = sorted(
        (name, repr(one)) for name, one in _parameters_of(item).items() if name not in own
    )
    return item.cls, *others


def count_tests(kit: type) -> int:
    """Return how many tests the kit has."""
    return sum(
        math.prod(len(values) for _, values in _parametrized(kit, name))
        for name in dir(kit)
        if name.startswith("test_")
    )


def _parametrized(kit: type, name: str) -> Iterator[tuple[str, Any]]:
    for mark in getattr(getattr(kit, name, None), "pytestmark", ()):
        if mark.name == "parametrize":
            argument, values = mark.args
            yield argument, values


def _parameters_of(item: Any) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}
