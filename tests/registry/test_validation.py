"""Validation accepts backends, and names everything wrong with other objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from procession import (
    Availability,
    Capabilities,
    IncompatibleBackendError,
    InvalidBackendError,
    get_backend,
)
from procession._registry.validation import validate


def make(**changes: Any) -> Any:
    parts = {
        "name": "it",
        "protocol_version": 1,
        "capabilities": Capabilities(),
        "availability": lambda: Availability(True),
        "start": lambda launch: None,
    }
    return SimpleNamespace(**{**parts, **changes})


async def start_later(launch: object) -> None: ...


def problems_of(candidate: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidBackendError) as caught:
        validate(candidate, name="it", origin="a test")
    return caught.value.problems


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"start": lambda *arguments, **options: None},
        {"start": lambda launch, more=None: None},
        {"start": max},  # it has no signature
        {"options": ("a", "b")},
        {"options": {}},
        {"default_nprocs": lambda options: 3},
    ],
)
def test_an_object_with_the_parts_of_a_backend_is_accepted(changes: dict[str, Any]) -> None:
    candidate = make(**changes)
    assert validate(candidate, name="it", origin="a test") is candidate
    assert get_backend(candidate) is candidate


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "name must be a non-empty str, not ''"),
        ({"name": 3}, "name must be a non-empty str, not 3"),
        ({"protocol_version": "1"}, "protocol_version must be an int, not '1'"),
        ({"protocol_version": True}, "protocol_version must be an int, not True"),
        ({"capabilities": {}}, "capabilities must be a procession.Capabilities, not {}"),
        ({"options": "abc"}, "options must be a collection of str, not 'abc'"),
        ({"options": [1]}, "options must be a collection of str, not [1]"),
        ({"start": 3}, "start(launch) must be callable, not 3"),
        ({"start": lambda: None}, "start(launch) cannot be called with 1 positional argument(s)"),
        ({"start": lambda *, launch: None}, "start(launch) cannot be called with 1 positional"),
        ({"start": start_later}, "start(launch) must not be a coroutine function"),
        ({"availability": lambda x: None}, "availability() cannot be called with 0 positional"),
        ({"default_nprocs": lambda: 3}, "default_nprocs(options) cannot be called with 1"),
    ],
)
def test_a_wrong_part_is_named(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(make(**changes))
    assert found.startswith(problem)


def test_all_problems_are_named_at_once() -> None:
    found = problems_of(SimpleNamespace(start=1))
    assert [problem.split()[-1] for problem in found[:1]] == ["str"]
    assert len(found) == 5


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    class Backend:
        start = None

    (problem,) = problems_of(Backend)
    assert "is the class" in problem
    assert "not an instance" in problem
    with pytest.raises(InvalidBackendError, match="passed as start_method"):
        get_backend(Backend)  # type: ignore[arg-type]


def test_a_property_that_raises_counts_as_missing() -> None:
    class Backend:
        @property
        def name(self) -> str:
            raise RuntimeError("not ready")

    assert "it has no name" in problems_of(Backend())[0]


@pytest.mark.parametrize("version", [0, 2, 99, -1])
def test_another_version_of_the_protocol_is_refused(version: int) -> None:
    with pytest.raises(IncompatibleBackendError, match=f"speaks version {version}"):
        validate(SimpleNamespace(protocol_version=version), name="it", origin="a test")
