"""Measure what a launch costs: ``python -m tests.benchmarks [ROW...]``, from the root of the repository.

The contestants of a row measure in turn, in one run, so that a slow machine slows them all; a ratio compares
two measurements of the same round.  Each contestant has its own process (worker.py).  rows.py says what a
row measures, and measures.py how.  The exit status is 1 if procession or the limit could not be measured;
a missed goal is only printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import py_compile
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

import work  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from printing import print_result  # noqa: E402
from rounds import play  # noqa: E402
from rows import ROWS, Row  # noqa: E402
from summaries import Result, describe  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen rows, print the results, and return the exit status."""
    options = parse(arguments)
    if options.list:
        print(*(f"{row.name:22}{row.what}" for row in ROWS), sep="\n")
        return 0
    py_compile.compile(work.__file__)  # like an installed module; otherwise ranks would compile it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends workers, too
    about = see_machine()
    print("; ".join(f"{name} {value}" for name, value in about.items()), end="\n\n", flush=True)
    results: list[Result] = []
    for row in select(options.rows):
        results.append(play(row, options.repeat, options.full))
        print_result(results[-1])
        if options.json:  # after each row, so that a long run that is interrupted keeps its results
            write(options.json, about, results)
    if options.plot:
        from plots import draw

        draw(results, options.plot)
    return int(any(map(has_failed, results)))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="What a launch costs, beside other launchers.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all if left out")
    parser.add_argument("--list", action="store_true", help="list the rows, and measure nothing")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds; else each row has its own")
    parser.add_argument("--full", action="store_true", help="1024 ranks by spawn as well")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--plot", metavar="FILE.png", help="draw them (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")  # now, not after all rows
    return options


def select(names: list[str]) -> list[Row]:
    """Return the rows with these names, or all.

    Raises:
        SystemExit: there is no such row.
    """
    rows = {row.name: row for row in ROWS}
    if unknown := sorted(set(names) - set(rows)):
        raise SystemExit(f"no such row: {', '.join(unknown)}; there are {', '.join(rows)}")
    return [rows[name] for name in names or rows]


def see_machine() -> dict[str, str]:
    """Return the versions of the contestants, and facts about the machine."""
    about = {"python": platform.python_version(), "kernel": platform.release()}
    about["processors"] = str(len(os.sched_getaffinity(0)))
    modules = {"importlib_metadata", *(one.module for one in CONTESTANTS.values())}
    for module in sorted(modules - {"", "multiprocessing"}):
        try:
            about[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            about[module] = "not installed"
    return about


def write(path: str, about: dict[str, str], results: list[Result]) -> None:
    """Write the results so far."""
    content: dict[str, Any] = {"about": about, "rows": list(map(describe, results))}
    Path(path).write_text(json.dumps(content, indent=1))


def has_failed(result: Result) -> bool:
    """Return whether procession or the limit should have been measured, and was not."""
    expected = {"bare", "procession"} & set(result.row.contestants)
    return any(line.contestant in expected and line.said for line in result.lines)


if __name__ == "__main__":
    raise SystemExit(main())
