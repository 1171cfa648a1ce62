"""Counts the identifiers of Python's standard library; the ranks split its source files among them.

    python -m procession run -n 4 docs/examples/word_count.py:main
    python -m procession run -n 2 --start-method fork docs/examples/word_count.py:main json

The second form counts one folder of the library only.
"""

from __future__ import annotations

import sysconfig
import time
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from keyword import iskeyword
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from procession import rank_info

NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests"}


@dataclass
class Counts:
    """What one rank read, or several together."""

    files: int = 0
    lines: int = 0
    seconds: float = 0.0
    names: Counter[str] = field(default_factory=Counter)


def find_files(folder: str | None) -> list[Path]:
    """Return the library's source files, or those of one of its folders; the same in every rank."""
    root = Path(sysconfig.get_path("stdlib"), folder or "")
    return sorted(
        path for path in root.rglob("*.py") if NOT_LIBRARY.isdisjoint(path.relative_to(root).parts)
    )


def count(files: list[Path]) -> Counts:
    """Count the identifiers in some files."""
    counts = Counts()
    begin = time.perf_counter()
    for path in files:
        with tokenize.open(path) as source:
            lines = source.readlines()
        counts.files += 1
        counts.lines += len(lines)
        counts.names.update(
            token.string
            for token in tokenize.generate_tokens(iter(lines).__next__)
            if token.type == tokenize.NAME and not iskeyword(token.string)
        )
    counts.seconds = time.perf_counter() - begin
    return counts


def gather(own: Counts) -> list[Counts]:
    """Return every rank's counts in rank 0, by rank, and nothing in the others.

    The ranks meet at a socket that is named after their launch and has no file (Linux's abstract
    namespace); the launch's own key keeps strangers out.
    """
    info = rank_info()
    if info is None or info.nprocs == 1:
        return [own]
    address, key = f"\0word-count-{info.launch_id}", bytes(current_process().authkey)
    if info.rank > 0:
        with connect(address, key) as peer:
            peer.send((info.rank, own))
        return []
    received = {0: own}
    with Listener(address, "AF_UNIX", backlog=info.nprocs, authkey=key) as listener:
        while len(received) < info.nprocs:
            with listener.accept() as peer:
                rank, counts = peer.recv()
            received[rank] = counts
    return [received[rank] for rank in range(info.nprocs)]


def connect(address: str, key: bytes) -> Connection:
    """Connect to rank 0 once it listens; should it have failed, the launcher ends the wait."""
    while True:
        try:
            return Client(address, "AF_UNIX", authkey=key)
        except ConnectionRefusedError:
            time.sleep(0.01)


def show(gathered: list[Counts]) -> Counter[str]:
    """Print the ten most frequent identifiers and what each rank read; return the totals."""
    totals: Counter[str] = Counter()
    for counts in gathered:
        totals.update(counts.names)
    for name, number in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:10]:
        print(f"{number:9,} {name}")
    for rank, counts in enumerate(gathered):
        print(f"rank {rank}: {counts.files} files, {counts.lines} lines, {counts.seconds:.2f} s")
    return totals


def main(rank: int, folder: str | None = None) -> Counter[str] | None:
    """Count this rank's share; rank 0 prints and returns the totals of all."""
    info = rank_info()
    nprocs = info.nprocs if info else 1
    gathered = gather(count(find_files(folder)[rank::nprocs]))
    return show(gathered) if rank == 0 else None


if __name__ == "__main__":
    main(0)
