"""Check thousands of launches with random faults for wrong answers, leftovers and growing memory.

Each launch draws a start method and a scenario from a seeded generator: a success, a fault case of
`procession.testing.cases`, or an event in the caller.  Each wrong answer is printed with its seed and number.
At the end this process must have no more processes, descriptors, threads and files than after the first
tenth of the reports, and its memory must not have grown by more than `GROWTH`.

Usage: soak.py [--launches N] [--seed N] [--ranks N] [--report-every N] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from procession import ProcessException, ProcessTimeoutError, run, start_processes
from procession._forkserver import client
from procession.testing.cases import CASES, Case, play
from procession.testing.outcomes import assert_gone, assert_told
from procession.testing.scratch import Stage

METHODS = {"fork": 6, "forkserver": 3, "spawn": 1}  # with weights: the cheap ones are more frequent
GROWTH = 2.0
"""MiB of private memory per 1,000 launches that count as the allocator's, not as a leak."""
UNSTEADY = 8.0
"""MiB by which it may differ after any number of launches: arenas of threads come and go."""
MOST_WRONG = 20
"""Wrong answers after which the soak ends early."""

SLOW = {"200 MB", "memory", "memory held", "peer in vfork", "grandchildren", "nobody"}
PLAYED = [name for name, case in CASES.items() if not case.stubborn and name not in SLOW]

Launch = dict[str, Any]


def succeed(rank: int, size: int) -> bytes:
    """Return bytes; more than 48 KiB travel as a file."""
    return bytes(size)


def rest(rank: int) -> None:
    """Work for far longer than any launch of the soak lasts."""
    time.sleep(60)


class Scenarios:
    """The scenarios of a launch; each takes the options of its launch, and a folder."""

    def __init__(self, draw: random.Random, ranks: int) -> None:
        self.draw, self.ranks = draw, ranks

    def well(self, launch: Launch, folder: str) -> None:
        """All ranks return."""
        size = self.draw.choice([0, 100, 100_000])
        assert run(succeed, (size,), self.ranks, **launch) == [bytes(size)] * self.ranks

    def fault(self, launch: Launch, folder: str) -> None:
        """A case of the fault table."""
        name = self.draw.choice(PLAYED)
        try:
            self._play(CASES[name], name, launch, folder)
        except BaseException as error:
            note = f"the case {name!r}"
            error.args = (*error.args, note)
            raise

    def terminated(self, launch: Launch, folder: str) -> None:
        """The caller stops the ranks at any stage of their start."""
        context = start_processes(rest, nprocs=self.ranks, join=False, **launch)
        time.sleep(self.draw.choice([0, 0.001, 0.01]))
        context.terminate()
        assert context.wait()

    def late(self, launch: Launch, folder: str) -> None:
        """The deadline passes."""
        try:
            start_processes(rest, nprocs=self.ranks, timeout=0.02, **launch)
        except ProcessTimeoutError as one:
            failures = one.failures
        assert len(failures) in (0, self.ranks)  # 0 if the start itself took longer

    def dropped(self, launch: Launch, folder: str) -> None:
        """The caller drops the launch without joining it: the next launch reaps the ranks."""
        context = start_processes(succeed, (10,), self.ranks, join=False, **launch)
        processes = context.processes
        del context
        for process in processes:
            process.join()
        assert run(succeed, (10,), 1, **launch) == [bytes(10)]

    def interrupted(self, launch: Launch, folder: str) -> None:
        """Ctrl-C while the caller waits."""
        try:
            with start_processes(rest, nprocs=self.ranks, join=False, **launch) as context:
                signal.setitimer(signal.ITIMER_REAL, 0.01)  # may be due before the wait
                context.wait()
        except KeyboardInterrupt:
            return
        raise AssertionError("the interrupt was lost")

    def shown(self, launch: Launch, folder: str) -> None:
        """The caller dumps the stacks of the ranks."""
        with start_processes(rest, nprocs=self.ranks, join=False, **launch) as context:
            assert len(context.dump_stacks()) == self.ranks

    def two(self, launch: Launch, folder: str) -> None:
        """Two threads launch at the same time."""
        answers: list[object] = []

        def one() -> None:
            answers.append(run(succeed, (10,), self.ranks, **launch))

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [[bytes(10)] * self.ranks] * 2

    def _play(self, case: Case, name: str, launch: Launch, folder: str) -> None:
        error = None
        try:
            start_processes(play, (name, folder), self.ranks, **launch)
        except ProcessException as one:
            error = one
        assert_told(case, error)
        assert_gone(Stage(folder, 0).noted())


WEIGHTS = {
    "well": 30, "fault": 50, "terminated": 6, "late": 3, "dropped": 2, "interrupted": 3, "shown": 3,
    "two": 3,
}  # fmt: skip


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Do all launches; return the results."""
    draw = random.Random(options.seed)
    scenarios = Scenarios(draw, options.ranks)
    done: Counter[str] = Counter()
    wrong: list[str] = []
    stocks = []
    begun = time.monotonic()
    for number in range(options.launches):
        method = draw.choices(list(METHODS), list(METHODS.values()))[0]
        name = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        done[f"{method} {name}"] += 1
        problem = play_one(getattr(scenarios, name), method)
        if problem:
            wrong.append(f"seed {options.seed}, launch {number}: {method}, {name}\n{problem}")
            print(wrong[-1], flush=True)
        if (number + 1) % options.report_every == 0:
            stocks.append(take_stock())
            rate = (number + 1) / (time.monotonic() - begun)
            print(f"{number + 1} launches, {rate:.0f} a second, {stocks[-1]}", flush=True)
        if len(wrong) >= MOST_WRONG:
            break
    wrong += compare(stocks, options.report_every)
    return {"done": dict(done), "wrong": wrong, "stocks": stocks}


def play_one(scenario: Callable[[Launch, str], None], method: str) -> str:
    """Play one scenario; return what was wrong, or an empty string."""
    options = {"fork_check": "off"} if method == "fork" else {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            scenario({"start_method": method, "options": options}, folder)
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def take_stock() -> dict[str, float]:
    """Return the number of resources of each kind that this process has, and its private memory in MiB."""
    client.stop_servers()
    gc.collect()
    memory = Path("/proc/self/smaps_rollup").read_text()
    private = sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", memory, re.MULTILINE)))
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {
        "children": sum(map(len, children)),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "files": len(os.listdir(tempfile.gettempdir())),
        "MiB": round(private / 1024, 2),
    }


def compare(stocks: list[dict[str, float]], every: int) -> list[str]:
    """Return what the last stock has more than the first, and whether memory grew."""
    if len(stocks) < 3:
        return []
    first = max(len(stocks) // 10, 1)
    start, end = stocks[first], stocks[-1]
    more = [f"{kind}: {start[kind]} became {end[kind]}" for kind in start if kind != "MiB"]
    left = [text for text, kind in zip(more, start, strict=False) if end[kind] > start[kind]]
    launches = (len(stocks) - 1 - first) * every
    growth = (end["MiB"] - start["MiB"]) / launches * 1000
    print(f"memory: {growth:+.3f} MiB per 1,000 launches, over the last {launches}")
    if growth > GROWTH and end["MiB"] - start["MiB"] > UNSTEADY:
        left.append(f"memory grew by {growth:.2f} MiB per 1,000 launches")
    return left


def main() -> int:
    """Soak, print a summary, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--launches", type=int, default=10_000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-every", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("procession").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for number in (signal.SIGALRM, signal.SIGINT):  # the shell's ``&`` ignores the second
        signal.signal(number, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ranks print messages when they end
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        result = soak(options)
    total = sum(result["done"].values())
    for name, count in sorted(result["done"].items()):
        print(f"{count:6} {name}")
    print(f"{total} launches of {options.ranks} ranks, {len(result['wrong'])} wrong")
    print("\n".join(result["wrong"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
