"""Print the results of the benchmark of a launch as tables for a terminal."""

from __future__ import annotations

from rows import RATIO, SECONDS
from summaries import (
    NOT_INSTALLED,
    NOT_POSSIBLE,
    Line,
    Result,
    Spread,
    compare,
    find_extras,
    is_met,
    reach,
    spread,
)


def print_result(result: Result) -> None:
    """Print a row: a table, the errors, and the goal."""
    row = result.row
    shown = [line for line in result.lines if not (line.said == NOT_POSSIBLE and line.variant)]
    print(f"{row.name}: {row.what}")
    print_table([_head(result), *(_make_cells(result, line) for line in shown)])
    for line in shown:
        if line.said not in ("", NOT_INSTALLED, NOT_POSSIBLE):
            print(f"{line.name} failed:\n{line.said.strip()}")
    print(f"{_judge(result)}\n", flush=True)


def print_table(table: list[list[str]]) -> None:
    """Print rows of cells, the first column to the left and the numbers to the right."""
    width = max(map(len, table))
    table = [row + [""] * (width - len(row)) for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        aligned = (cell.rjust(size) for cell, size in zip(cells, widths[1:], strict=True))
        print("  ".join([name.ljust(widths[0]), *aligned]).rstrip())


def show(number: str, value: float) -> str:
    """Return a number with its unit, which follows from its name."""
    if not number.startswith(SECONDS):
        return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    return f"{value * 1e3:.2f} ms" if abs(value) < 10 else f"{value:.2f} s"


def _head(result: Result) -> list[str]:
    reference = result.row.reference
    ratio = [f"/ {reference}", "least", "largest"] if reference else []
    extras = [f"({_call(name)})" for name in find_extras(result)]
    return ["", _call(result.row.number), "least", "largest", *ratio, *extras]


def _make_cells(result: Result, line: Line) -> list[str]:
    number = result.row.number
    if not (own := spread(line, number)):
        return [line.name, line.said if line.said in (NOT_INSTALLED, NOT_POSSIBLE) else "failed"]
    ratio = _show_all(RATIO, compare(result, line)) if result.row.reference else []
    extras = [_show_median(line, name) for name in find_extras(result)]
    return [line.name, *_show_all(number, own), *ratio, *extras]


def _show_all(number: str, one: Spread | None) -> list[str]:
    numbers = (one.median, one.least, one.largest) if one else ()
    return [show(number, value) for value in numbers] or [""] * 3


def _show_median(line: Line, number: str) -> str:
    one = spread(line, number) if number in line.answers[0] else None
    return show(number, one.median) if one else ""


def _call(number: str) -> str:
    return number.replace(SECONDS, "time")


def _judge(result: Result) -> str:
    goal = result.row.goal
    if goal is None:
        return "no goal"
    aim = f"goal: procession's {_call(goal.of)} at most {show(goal.of, goal.most)}"
    reached = reach(result)
    if reached is None:
        return f"{aim}: not measured"
    return f"{aim}: {'met' if is_met(result) else 'NOT MET'} ({show(goal.of, reached)})"
