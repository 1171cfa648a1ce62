"""Summarise the numbers of a row: medians, ratios, and whether the goal is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rows import RATIO, Answer, Row

OURS = "procession"
NOT_INSTALLED, NOT_POSSIBLE = "not installed", "-"


@dataclass(frozen=True, slots=True)
class Line:
    """The answers of a contestant in the order of the rounds, or the reason why there are none."""

    contestant: str
    variant: str
    answers: list[Answer]
    said: str = ""

    @property
    def name(self) -> str:
        """The name of the line in a table."""
        return f"{self.contestant}, {self.variant}" if self.variant else self.contestant


@dataclass(frozen=True, slots=True)
class Result:
    """A row and its lines."""

    row: Row
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, least and largest of some numbers."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        """Return the spread of at least one number."""
        numbers = list(numbers)
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def spread(line: Line, number: str) -> Spread | None:
    """Return the spread of one of a line's numbers, if it was measured."""
    return Spread.of(answer[number] for answer in line.answers) if line.answers else None


def compare(result: Result, line: Line) -> Spread | None:
    """Return the spread of a line's ratio to the reference in each round, if there is a reference."""
    number, name = result.row.number, result.row.reference
    for other in result.lines:
        if (other.contestant, other.variant) == (name, line.variant):
            pairs = list(
                zip(line.answers, other.answers, strict=False)
            )  # slow contestants have fewer rounds
            return Spread.of(a[number] / b[number] for a, b in pairs) if pairs else None
    return None


def find_extras(result: Result) -> list[str]:
    """Return the names of the measured numbers besides the one that counts."""
    names = dict.fromkeys(
        name for line in result.lines for answer in line.answers for name in answer
    )
    return [name for name in names if name != result.row.number]


def reach(result: Result) -> float | None:
    """Return procession's median of the number or ratio of the goal, the largest of all variants."""
    goal = result.row.goal
    ours = [line for line in result.lines if line.contestant == OURS]
    if goal is None or not all(line.answers for line in ours):
        return None
    spreads = [
        compare(result, line) if goal.of == RATIO else spread(line, goal.of) for line in ours
    ]
    medians = [one.median for one in spreads if one is not None]
    return max(medians) if len(medians) == len(ours) else None


def is_met(result: Result) -> bool | None:
    """Return whether a row's goal is met; None if it has none, or was not measured."""
    reached = reach(result)
    return None if reached is None or result.row.goal is None else reached <= result.row.goal.most


def describe(result: Result) -> dict[str, Any]:
    """Return a result as an object for JSON."""
    row = result.row
    return {
        "name": row.name,
        "what": row.what,
        "number": row.number,
        "reference": row.reference,
        "goal": asdict(row.goal) if row.goal else None,
        "reached": reach(result),
        "met": is_met(result),
        "lines": [_describe_line(result, line) for line in result.lines],
    }


def _describe_line(result: Result, line: Line) -> dict[str, Any]:
    ratio = compare(result, line)
    return {**asdict(line), "ratio": asdict(ratio) if ratio else None}
