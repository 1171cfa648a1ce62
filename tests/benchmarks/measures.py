"""Measurements of a worker: each function returns numbers by name, times in seconds.

Preparation comes before the clock starts, and cleaning up after it has stopped.
"""

from __future__ import annotations

import importlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import work
from contestants import Contestant, bare
from resolving import resolve
from rows import Answer

_MIB = 1 << 20


def clock(function: Callable[[], object]) -> float:
    """Return the time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def launch(
    contestant: Contestant, method: str, ranks: int, of_main: bool = False, cold: bool = False
) -> Answer:
    """Launch ranks that do nothing; ``of_main``: fn is in the main module, ``cold``: no server runs yet."""
    fn = vars(sys.modules["__main__"])["nothing"] if of_main else work.nothing
    if cold:
        importlib.import_module("procession._forkserver.client").stop_servers()
    seconds = clock(lambda: contestant.launch(fn, (), ranks, method))
    return {"seconds": seconds, "seconds a rank": seconds / ranks}


def scale(contestant: Contestant, method: str, few: int, many: int) -> Answer:
    """Compare the cost of a rank among many with that among few, measured before and after (the median)."""

    def cost(ranks: int) -> float:
        return launch(contestant, method, ranks)["seconds a rank"]

    before, large, after = [cost(few), cost(few)], cost(many), [cost(few), cost(few)]
    small = statistics.median(before + after)
    return {
        "growth": large / small,
        f"seconds a rank of {few}": small,
        f"seconds a rank of {many}": large,
    }


def hand_array(contestant: Contestant, method: str, ranks: int, mib: int) -> Answer:
    """Pass a numpy array to ranks; the limit copies it once into memory that can be shared."""
    numbers = make_array(mib)
    if contestant.launch is bare:
        return {"seconds": clock(lambda: copy(memoryview(numbers).cast("B")))}
    args = (numbers, len(numbers))
    return {"seconds": clock(lambda: contestant.launch(work.check_array, args, ranks, method))}


def make_array(mib: int) -> Any:
    """Return an array of so many MiB that counts from 0."""
    numpy: Any = importlib.import_module("numpy")
    return numpy.arange(mib * _MIB // 8, dtype="float64")


def copy(data: memoryview) -> None:
    """Write bytes into a file in memory."""
    fd = os.memfd_create("limit")
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def hand_dict(contestant: Contestant, method: str, ranks: int, length: int) -> Answer:
    """Pass a dict of integers to ranks."""
    args = ({number: number for number in range(length)}, length)
    return {"seconds": clock(lambda: contestant.launch(work.check_dict, args, ranks, method))}


def weigh_array(contestant: Contestant, method: str, ranks: int, mib: int) -> Answer:
    """Return the memory that a launch adds while its ranks hold an array, in sizes of the array.

    Also return the part that ranks with an empty array need: for their interpreters, and for numpy.
    """
    bytes_added = [weigh(contestant, method, ranks, make_array(size)) for size in (0, mib)]
    empty, full = (added / (mib * _MIB) for added in bytes_added)
    return {"sizes": full, "sizes of empty ranks": empty, "sizes of the array": full - empty}


def weigh(contestant: Contestant, method: str, ranks: int, load: Any) -> int:
    """Return how much more memory ranks and caller have than the caller alone had before, in bytes."""
    before = read_pss(os.getpid())
    with session(contestant, method, ranks, load) as (pids, _):
        return sum(map(read_pss, [os.getpid(), *pids])) - before


def read_pss(pid: int) -> int:
    """Return the memory of a process, with its share of what it shares with others."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (size,) = re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(size) * 1024


def count_descriptors(contestant: Contestant, method: str, ranks: int) -> Answer:
    """Return how many descriptors a caller has for each running rank, and how many a rank has."""
    before = len(os.listdir("/proc/self/fd"))
    with session(contestant, method, ranks) as (_, counts):
        in_caller = (len(os.listdir("/proc/self/fd")) - before) / ranks
        return {"descriptors": in_caller, "descriptors in a rank": statistics.mean(counts)}


@contextmanager
def session(
    contestant: Contestant, method: str, ranks: int, *load: Any
) -> Iterator[tuple[list[int], Sequence[int]]]:
    """Run ranks that hold their argument until the block ends; yield their pids and what they noted."""
    assert contestant.begin is not None
    with tempfile.TemporaryDirectory() as folder:
        notes = work.make_notes(f"{folder}/up", ranks)
        running = contestant.begin(work.hold, (folder, *load), ranks, method)
        try:
            yield running.pids, work.await_all(notes)
        finally:
            Path(folder, "leave").touch()
            running.wait()


def detect(contestant: Contestant, method: str, ranks: int) -> Answer:
    """Return how long after the raise in a rank its caller has the exception."""
    with tempfile.TemporaryDirectory() as folder:
        notes = work.make_notes(f"{folder}/notes", ranks)
        try:
            contestant.launch(work.raise_in_one, (notes,), ranks, method)
        except Exception as error:
            known = time.monotonic_ns()
            if "ValueError: measured" not in str(error):
                raise
            return {"seconds": (known - work.read_notes(notes)[0]) / 1e9}
    raise AssertionError("nothing was raised")


def enter(contestant: Contestant, method: str, ranks: int) -> Answer:
    """Return how long after the call all ranks are inside fn."""
    with tempfile.TemporaryDirectory() as folder:
        notes = work.make_notes(f"{folder}/notes", ranks)
        begun = time.monotonic_ns()
        contestant.launch(work.arrive, (notes,), ranks, method)
        arrived = [(at - begun) / 1e9 for at in work.read_notes(notes)]
    return {"seconds": max(arrived), "seconds of the first": min(arrived)}


def time_import(contestant: Contestant) -> Answer:
    """Return the time that an import adds to an interpreter that does nothing, which is the limit."""
    without = clock(lambda: interpret("pass"))
    if not contestant.module:
        return {"seconds": without}
    whole = clock(lambda: interpret(f"import {contestant.module}"))
    return {"seconds": whole - without, "seconds with the interpreter": whole}


def run_script(contestant: Contestant, code: str) -> Answer:
    """Run a script in a new interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(code)
        command = [sys.executable, str(path)]
        return {"seconds": clock(lambda: subprocess.run(command, check=True))}


def interpret(code: str) -> None:
    """Run code in a new interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True)


Measure = Callable[..., Answer]
MEASURES: dict[str, Measure] = {
    "launch": launch,
    "scale": scale,
    "array": hand_array,
    "dict": hand_dict,
    "memory": weigh_array,
    "descriptors": count_descriptors,
    "raise": detect,
    "enter": enter,
    "import": time_import,
    "script": run_script,
    "resolve": resolve,
}
