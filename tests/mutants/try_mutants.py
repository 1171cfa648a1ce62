"""Changes the package in small ways, one at a time, and shows the changes that no test notices.

``python tests/mutants/try_mutants.py [ROOM or MODULE...]`` (`_rank`, `_rank/report`; default: the rooms of
trials.FIRST) needs root: each trial mounts a copy of the package over the installed one.  cosmic-ray makes
the changes, and keeps them and their results in a database: with ``--session FILE`` a run goes on where
another one was stopped, and ``cosmic-ray dump FILE`` shows all of it.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem
from mutations import prepare
from trials import Copy, Limits

GOAL = 95
"""Percent of the mutants that tests should kill."""


def main() -> int:
    """Try mutants; return 1 if fewer than GOAL percent of a room's are killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="ROOM or MODULE")
    parser.add_argument("--sample", type=int, default=120, help="how many mutants (default: 120)")
    parser.add_argument("--all", action="store_true", help="all mutants")
    parser.add_argument("--seed", type=int, default=1, help="which sample (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument("--session", type=Path, help="the database (default: a temporary one)")
    options = parser.parse_args()
    os.environ.setdefault("PROCESSION_TEST_PATIENCE", "3")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        session = options.session or Path(folder, "session.sqlite")
        copies = [Copy(Path(folder, str(number))) for number in range(options.jobs)]
        copies[0].check()
        with use_db(session, WorkDB.Mode.create) as database:
            if not database.num_work_items:
                modules = copies[0].find_modules(options.names)
                prepare(database, modules, None if options.all else options.sample, options.seed)
            try_all(database, copies)
            return report(database)


def try_all(database: WorkDB, copies: list[Copy]) -> None:
    """Try the mutants that have no result yet, one at a time in each copy."""
    limits = Limits()
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def try_one(item: WorkItem) -> None:
        copy = free.get()
        result = copy.try_mutant(item, limits)
        free.put(copy)
        database.set_result(item.job_id, result)
        if not result.is_killed:
            print(f"survived: {describe(item)}\n{result.diff}", flush=True)

    with ThreadPoolExecutor(len(copies)) as pool:
        list(pool.map(try_one, database.pending_work_items))


def describe(item: WorkItem) -> str:
    """Return a line about a mutant."""
    [mutation] = item.mutations
    room, module = mutation.module_path.parts[-2:]
    return f"{room}/{module}:{mutation.start_pos[0]} {mutation.operator_name} {mutation.occurrence}"


def report(database: WorkDB) -> int:
    """Print a line for each room; return 1 if tests killed too few mutants of one."""
    rooms: dict[str, Counter[str]] = {}
    for item, result in database.completed_work_items:
        if result.worker_outcome is not WorkerOutcome.SKIPPED:
            counts = rooms.setdefault(item.mutations[0].module_path.parent.name, Counter())
            counts["mutants"] += 1
            counts["killed"] += result.is_killed
            counts["survived"] += not result.is_killed
            counts["timed out"] += result.output == "timeout"
            counts["broken"] += result.test_outcome is TestOutcome.INCOMPETENT
    for room, counts in sorted(rooms.items()):
        percent = 100 * counts["killed"] / counts["mutants"]
        numbers = ", ".join(f"{number} {name}" for name, number in counts.items())
        print(f"{room}: {numbers}, {percent:.1f} % killed")
    return int(any(100 * one["killed"] < GOAL * one["mutants"] for one in rooms.values()))


if __name__ == "__main__":
    sys.exit(main())
