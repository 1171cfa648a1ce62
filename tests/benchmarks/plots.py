"""Draw the results of the benchmark of a launch; only this module imports matplotlib."""

from __future__ import annotations

import importlib
from typing import Any

from rows import RATIO, SECONDS
from summaries import OURS, Result, spread

_COLUMNS = 3
_SIZE = (5.0, 2.6)  # inches of one row's part
_OURS, _OTHERS = "tab:blue", "tab:gray"


def draw(results: list[Result], path: str) -> None:
    """Draw each row into a part of one picture."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    lines = -(-len(results) // _COLUMNS)
    columns = min(len(results), _COLUMNS)
    size = (_SIZE[0] * columns, _SIZE[1] * lines)
    figure, parts = pyplot.subplots(lines, columns, squeeze=False, figsize=size)
    for part in parts.flat[len(results) :]:
        part.axis("off")
    for part, result in zip(parts.flat, results, strict=False):
        draw_row(part, result)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_row(part: Any, result: Result) -> None:
    """Draw a bar for each line, with its median, least and largest number, and draw the goal."""
    row, factor = result.row, 1e3 if result.row.number == SECONDS else 1
    lines = [line for line in result.lines if line.answers]
    spreads = [one for line in lines if (one := spread(line, row.number))]
    medians = [one.median * factor for one in spreads]
    least = [(one.median - one.least) * factor for one in spreads]
    largest = [(one.largest - one.median) * factor for one in spreads]
    colours = [_OURS if line.contestant == OURS else _OTHERS for line in lines]
    part.barh([line.name for line in lines], medians, xerr=(least, largest), color=colours)
    part.invert_yaxis()
    part.set_title(row.name, fontsize=10)
    part.set_xlabel("ms" if row.number == SECONDS else row.number, fontsize=8)
    part.tick_params(labelsize=8)
    if (goal := find_goal(result)) is not None:
        part.axvline(goal * factor, color="tab:green", linestyle="--")
    if min(medians, default=0) > 0 and max(medians) > 10 * min(medians):
        part.set_xscale("log")


def find_goal(result: Result) -> float | None:
    """Return the goal in the row's number; multiply a ratio by the median of the reference."""
    row = result.row
    if row.goal is None or row.goal.of != RATIO:
        return row.goal.most if row.goal else None
    for line in result.lines:
        if line.contestant == row.reference and (reference := spread(line, row.number)):
            return row.goal.most * reference.median
    return None
