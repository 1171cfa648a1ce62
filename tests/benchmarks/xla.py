"""Measure how soon JAX's ranks meet: ``python -m tests.benchmarks.xla``, from the root of the repository.

The times are from the call to the first collective of all ranks, on CPU, and from the call until all ranks
have ended and their results are there.  The contestants measure in turn, each time in a fresh caller:

procession          ``start_method="xla"`` with its default, a forkserver, which an earlier launch started
procession, cold    the same without an earlier launch
procession, spawn   with ``options={"base": "spawn"}``
procession, fork    with ``options={"base": "fork"}``; its caller has imported JAX, and used no device
bare                interpreters that import JAX, and initialise its distributed runtime as JAX says
bare limit          the same, but they first wait for rank 0: JAX backs off for a second if it is not up yet
JAX's test launcher ``jax._src.test_multiprocess``; its import of JAX, once for all ranks, does not count

The last needs absl (``pip install absl-py``), and uses portpicker if that is installed.  In a virtual
environment it works if it passes ``sys.path`` on, as in JAX 0.12.  A measurement that fails, or takes longer
than a minute, is reported below the table and repeated.

Ranks import this module: at its top it imports only what JAX imports, too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rows import Answer, Row
    from summaries import Result

HERE = Path(__file__).parent
Times: TypeAlias = "tuple[int, Sequence[int], int]"
"""The times of the call, of the collective in each rank, and of the end: monotonic, in nanoseconds."""

COLLECTIVE, END = "seconds to the collective", "seconds to the end"
SPAWN, JAX = "procession, spawn", "JAX's test launcher"
PACKAGES = ("procession", "procession-xla", "jax", "jaxlib", "numpy", "absl-py", "portpicker")

_LONGEST = 60.0  # seconds that a measurement may take
_SETTLING = 0.1  # seconds for the processes of the last to be gone

BARE = """
import sys, jax, work, xla
address, notes, ranks, rank, patient = *sys.argv[1:3], *map(int, sys.argv[3:])
if patient and rank:
    from procession_xla.coordinator import await_coordinator
    await_coordinator(address, 30)
jax.distributed.initialize(address, ranks, rank)
work.note(rank, notes, xla.meet(rank, ranks))
"""

JAX_MAIN = """
import time, work, xla
from jax._src import test_multiprocess

def shard_main():
    import jax
    work.note(jax.process_index(), {notes!r}, xla.meet(jax.process_index(), {ranks}))

if __name__ == "__main__":
    called = time.monotonic_ns()
    try:
        test_multiprocess.main(shard_main=shard_main)
    except SystemExit as end:
        if end.code: raise
    if test_multiprocess.MULTIPROCESS_TEST_WORKER_ID.value < 0:
        work.note({ranks}, {notes!r}, called)
        work.note({ranks} + 1, {notes!r}, time.monotonic_ns())
"""


def meet(rank: int, ranks: int) -> int:
    """Gather a number from each rank in every rank; return the time at which this one has them."""
    numpy = importlib.import_module("numpy")
    utils = importlib.import_module("jax.experimental.multihost_utils")
    gathered = utils.process_allgather(numpy.array([rank]))
    met = time.monotonic_ns()
    assert gathered.ravel().tolist() == list(range(ranks))
    return met


def launch(ranks: int, base: str, warm: bool = False) -> Times:
    """Launch by procession."""
    from procession import run

    if base == "fork":
        importlib.import_module("jax")
    if warm:
        launch(ranks, base)
        time.sleep(_SETTLING)
    options = {"base": base, "distributed": True, "platform": "cpu"}
    called = time.monotonic_ns()
    met = run(meet, (ranks,), ranks, start_method="xla", timeout=_LONGEST / 3, options=options)
    return called, met, time.monotonic_ns()


def launch_bare(ranks: int, patient: bool) -> Times:
    """Start interpreters, and wait for them."""
    from work import make_notes, read_notes

    from procession_xla.coordinator import Reservation

    notes, reservation = make_notes(f"{tempfile.gettempdir()}/notes", ranks), Reservation()
    start = [sys.executable, "-c", BARE, reservation.address, notes, str(ranks)]
    called = time.monotonic_ns()
    started = [subprocess.Popen([*start, str(rank), str(int(patient))]) for rank in range(ranks)]
    codes = [process.wait() for process in started]
    ended = time.monotonic_ns()
    reservation.close()
    if any(codes):
        raise ChildProcessError(f"the ranks ended with {codes}")
    return called, read_notes(notes), ended


def launch_jax(ranks: int) -> Times:
    """Launch by JAX's launcher, from a script that it runs again in each rank."""
    from work import make_notes, read_notes

    folder = tempfile.gettempdir()
    notes, script = make_notes(f"{folder}/notes", ranks + 2), f"{folder}/script.py"
    Path(script).write_text(JAX_MAIN.format(ranks=ranks, notes=notes))
    environ = {**os.environ, "TEST_UNDECLARED_OUTPUTS_DIR": folder}
    subprocess.run([sys.executable, script, f"--num_processes={ranks}"], env=environ, check=True)
    *met, called, ended = read_notes(notes)
    return called, met, ended


CONTESTANTS: dict[str, Callable[[int], Times]] = {
    "procession": partial(launch, base="forkserver", warm=True),
    "procession, cold": partial(launch, base="forkserver"),
    SPAWN: partial(launch, base="spawn"),
    "procession, fork": partial(launch, base="fork"),
    "bare": partial(launch_bare, patient=False),
    "bare limit": partial(launch_bare, patient=True),
    JAX: launch_jax,
}


def answer() -> None:
    """Act as a caller: measure once what the arguments say, and print it; other output goes to stderr."""
    from worker import take_streams

    _, answers = take_streams()
    called, met, ended = CONTESTANTS[sys.argv[1]](int(sys.argv[2]))
    assert called < min(met) <= max(met) < ended  # a rank that noted nothing has 0
    measured = {COLLECTIVE: (max(met) - called) / 1e9, END: (ended - called) / 1e9}
    print(json.dumps(measured), file=answers, flush=True)


def ask(contestant: str, ranks: int) -> Answer:
    """Measure in a fresh caller; if it takes too long, end it and all that it started."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # installed modules are compiled
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as answers,
        tempfile.TemporaryFile() as errors,
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", "import xla; xla.answer()", contestant, str(ranks)],
            stdin=subprocess.DEVNULL,
            stdout=answers,
            stderr=errors,
            env={**environ, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            process.wait(_LONGEST)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        answers.seek(0)
        errors.seek(0)
        if process.returncode:
            raise ChildProcessError(errors.read()[-2000:].decode(errors="replace"))
        measured: Answer = json.loads(answers.read())
        return measured


def play(row: Row, ranks: int, rounds: int) -> Result:
    """Measure in rounds; each begins with another contestant, and the first only warms up."""
    from rounds import take_turns
    from summaries import NOT_INSTALLED, Line, Result

    missing = {JAX} if importlib.util.find_spec("absl") is None else set()
    lines = [Line(name, "", [], NOT_INSTALLED * (name in missing)) for name in row.contestants]
    said: dict[str, list[str]] = {line.name: [] for line in lines if not line.said}
    answers = {line.name: line.answers for line in lines}
    for number, (name, _) in take_turns(row, [(name, "") for name in said], rounds):
        while len(said[name]) < 3:  # a missing round would spoil the ratios
            time.sleep(_SETTLING)
            try:
                measured = ask(name, ranks)
            except (ChildProcessError, subprocess.TimeoutExpired) as error:
                said[name].append(f"round {number}: {error}")
            else:
                answers[name] += [measured] if number >= 0 else []
                break
    notes = {name: "\n".join(texts) for name, texts in said.items()}
    return Result(row, [replace(line, said=notes.get(line.name, line.said)) for line in lines])


def see_machine() -> Iterator[str]:
    """Yield the versions of packages, and facts about the machine."""
    yield f"python {platform.python_version()}; kernel {platform.release()}"
    yield f"processors {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}"
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield f"{package} {metadata.version(package)}"


def main() -> None:
    """Measure, and print a table of the times to the collective, and one of those to the end."""
    sys.path[:0] = [str(HERE)]
    from printing import print_result
    from rows import Goal, Row

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.xla")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], metavar="N")
    options = parser.parse_args()
    print("; ".join(see_machine()), end="\n\n", flush=True)
    for ranks in options.ranks:
        what = f"{ranks} ranks of JAX on CPU, from the call"
        goal = Goal(0.5) if ranks == 4 else None
        row = Row(f"xla-{ranks}", what, {}, tuple(CONTESTANTS), SPAWN, goal, number=COLLECTIVE)
        result = play(row, ranks, options.rounds)
        print_result(result)
        print_result(replace(result, row=replace(row, number=END, goal=None)))


if __name__ == "__main__":
    main()
