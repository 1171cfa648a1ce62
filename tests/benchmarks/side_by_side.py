"""Run the same faults under several launchers, and print how each handles them.

The faults are those of `procession.testing.cases`, and three of what is pickled (peers.py).  A launch
has three ranks: rank 1 has the fault, and the healthy ones work for 12 seconds.  Each fault has a fresh
caller in a new session, with its own TMPDIR; afterwards all that it left is ended.
The same rules judge all peers.  Each gets the first of these verdicts that applies:

hang            the call did not end within the limit, or the caller did not exit within it afterwards
silent success  the call returned although a rank failed
wrong error     the call raised something else than the cause: an error of the launcher, or of another
                rank, which failed only because rank 1 had failed; or it raised although nothing was
                wrong (a SystemExit(0) that is passed on unchanged is no wrong error)
cause lost      the call raised, and said only that a process ended
late            the result is right, but the call ended 10 seconds or more after rank 1 had begun (after
                the call had begun, if rank 1 never did)
left behind     the result is right, but a rank, or a process that a rank had started, was alive one
                second after the call had ended, or still after the caller's exit
clean           none of these
n/a             the case makes no sense for this peer; the run says why

The cause of an exception is some text of it.  The exception that the call raised must have it: in its
text, in its notes, or in those of an exception that it names as its cause.  The cause of a rank that
ended otherwise is its exit code, or the name or number of the signal; for ``sys.exit(text)``, the
text.  Whatever the verdict, ``+N left`` counts processes, ``F`` entries left in TMPDIR and ``S``
segments left in /dev/shm after the caller's exit.  What a caller keeps as long as it lives counts only
after its exit: resource trackers, forkservers, procession's reaper.  ``known`` is the time when a pool
had the error that its ``with`` statement raised later, after the other ranks had ended.

Usage: side_by_side.py [--peers NAME...] [--cases NAME...] [--json FILE] [--markdown] [--quick] ...
The exit status is 1 unless procession was clean throughout, but for `KNOWN`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from peers import ALL_CASES, PEERS  # noqa: E402
from runs import Limits, play_one, stopping  # noqa: E402
from verdicts import CLEAN, HANG, NOT_APPLICABLE, VERDICTS, Run  # noqa: E402

QUICK_PEERS = ["procession:*", "torch:spawn"]
QUICK_CASES = [
    "ValueError",
    "exit 256",
    "KeyboardInterrupt",
    "_exit 0",
    "SIGKILL",
    "victim leaves first",
    "thread",
    "peer stopped",
    "session",
    "file size",
]
Row = list[str]


KNOWN = {("peer in C", "late")}
"""The rank has a handler for SIGTERM, and therefore 30 s, as with torch."""


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen cases; return 0 if procession was clean throughout."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends what runs, too
    peers = select(options.peers, PEERS)
    cases = select(options.cases, ALL_CASES)
    begun = time.monotonic()
    runs = play_all(peers, cases, Limits(options.limit, options.busy), options.jobs)
    print(f"{len(runs)} runs in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if options.json:
        about = {
            "limit": options.limit,
            "busy": options.busy,
            "jobs": options.jobs,
            **see_versions(),
        }
        text = json.dumps({**about, "runs": [asdict(run) for run in runs]}, indent=1)
        Path(options.json).write_text(text)
    print_tables(runs, peers, cases, print_markdown if options.markdown else print_plain)
    ours = [run for run in runs if run.peer.startswith("procession")]
    wrong = [run for run in ours if run.verdict not in (CLEAN, NOT_APPLICABLE)]
    return int(any((run.case, run.verdict) not in KNOWN for run in wrong))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Run the same faults under several launchers.")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="names or patterns; all if left out"
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="NAME", help="names or patterns; all if left out"
    )
    parser.add_argument("--limit", type=float, default=40, help="seconds until a call hangs")
    parser.add_argument("--busy", type=float, default=12, help="seconds that healthy ranks work")
    parser.add_argument("--jobs", type=int, default=2, help="how many callers run at a time")
    parser.add_argument("--json", metavar="FILE", help="write all runs to a file")
    parser.add_argument("--markdown", action="store_true", help="print tables for the docs")
    parser.add_argument("--quick", action="store_true", help="ten telling cases, two launchers")
    options = parser.parse_args(arguments)
    if options.quick:
        options.peers, options.cases = options.peers or QUICK_PEERS, options.cases or QUICK_CASES
    return options


def select(patterns: list[str] | None, names: Iterable[str]) -> list[str]:
    """Return the names that equal or match one of the patterns, in the order of the names.

    Raises:
        SystemExit: a pattern matches no name.
    """
    names = list(names)
    for pattern in patterns or ():
        if not (pattern in names or fnmatch.filter(names, pattern)):
            raise SystemExit(f"{pattern!r} is none of: {', '.join(names)}")
    wanted = patterns or names
    return [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in wanted)]


def play_all(peers: list[str], cases: list[str], limits: Limits, jobs: int) -> list[Run]:
    """Run every case under every peer; after an interrupt, end what runs."""
    with ThreadPoolExecutor(jobs) as pool:
        pairs = [(peer, case) for case in cases for peer in peers]
        pending = [pool.submit(play_one, peer, case, limits) for peer, case in pairs]
        try:
            return list(report(pending))
        except BaseException:
            stopping.set()
            pool.shutdown(cancel_futures=True)
            raise


def report(pending: list[Future[Run]]) -> Iterator[Run]:
    """Yield each run when it ends, and print it."""
    for number, future in enumerate(as_completed(pending), 1):
        run = future.result()
        line = f"[{number}/{len(pending)}] {run.peer}, {run.case}: {describe(run)}"
        print(line, file=sys.stderr, flush=True)
        yield run


def describe(run: Run) -> str:
    """Return the cell of a table for a run."""
    if run.verdict == NOT_APPLICABLE:
        return NOT_APPLICABLE
    parts = ["ok" if run.verdict == CLEAN else f"**{run.verdict}**"]
    if run.seconds is not None and run.verdict != HANG:
        parts.append(f"{run.seconds:.2f} s" if run.seconds < 10 else f"{run.seconds:.0f} s")
        if run.known is not None and run.seconds - run.known > 1:
            parts.append(f"(known {run.known:.1f})")
    parts += [f"+{len(run.left)} left"] if run.left and run.verdict != HANG else []
    parts += [f"F{len(run.files)}"] if run.files else []
    parts += [f"S{len(run.shared_memory)}"] if run.shared_memory else []
    return " ".join(parts)


def see_versions() -> dict[str, str]:
    """Return the versions of launchers, Python and kernel, and the number of processors."""
    packages = sorted({peer.package for peer in PEERS.values()} - {"", "."})
    versions = {"python": platform.python_version(), "kernel": platform.release()}
    for package in ["procession", *packages]:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = f"not installed: pip install {package}"
    return {**versions, "processors": str(os.cpu_count())}


def print_tables(runs: list[Run], peers: list[str], cases: list[str], show: object) -> None:
    """Print the counts, then every run, then the reasons why some were left out."""
    assert callable(show)
    print("; ".join(f"{name} {version}" for name, version in see_versions().items()), end="\n\n")
    show(["peer", "runs", *VERDICTS, "processes left", "files left"], count(runs, peers))
    print()
    cells = {(run.peer, run.case): describe(run) for run in runs}
    show(
        ["fault in rank 1", *peers],
        [[case, *(cells[peer, case] for peer in peers)] for case in cases],
    )
    reasons = {f"{run.peer}: {run.said}" for run in runs if run.verdict == NOT_APPLICABLE}
    print("\nn/a:", *sorted(reasons), sep="\n* ")


def count(runs: list[Run], peers: list[str]) -> Iterator[Row]:
    """Return a row for each peer: how often it got each verdict, and how often it left something."""
    for peer in peers:
        own = [run for run in runs if run.peer == peer]
        ran = [run for run in own if run.verdict != NOT_APPLICABLE]
        verdicts = [sum(run.verdict == verdict for run in own) for verdict in VERDICTS]
        left = [sum(bool(run.left) for run in ran), sum(bool(run.files) for run in ran)]
        yield [peer, *map(str, (len(ran), *verdicts, *left))]


def print_markdown(head: Row, rows: Iterable[Row]) -> None:
    """Print a table for GitHub."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


def print_plain(head: Row, rows: Iterable[Row]) -> None:
    """Print a table for a terminal."""
    table = [head, *([cell.replace("**", "") for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
