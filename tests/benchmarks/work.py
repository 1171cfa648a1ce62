"""Functions of the ranks in the benchmark of a launch; few imports, because every rank pays for them.

Ranks and their caller share a file with an 8-byte number for each rank, which is 0 until the rank notes one.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PATIENCE = 120.0
"""Seconds after which ranks and callers stop waiting for each other."""


def nothing(rank: int) -> None:
    """Do nothing, so that only the launch costs time."""


def check_array(rank: int, numbers: Any, length: int) -> None:
    """Read the first, middle and last element of an array that counts from 0."""
    assert numbers.shape == (length,)
    for index in (0, length // 2, length - 1):
        assert numbers[index] == index


def check_dict(rank: int, numbers: dict[int, int], length: int) -> None:
    """Read the first and the last entry."""
    assert len(numbers) == length
    assert numbers[0] == 0
    assert numbers[length - 1] == length - 1


def arrive(rank: int, path: str) -> None:
    """Note the time at which this rank is inside fn."""
    note(rank, path, time.monotonic_ns())


def raise_in_one(rank: int, path: str) -> None:
    """Raise in rank 0 once all ranks are up, and note the time."""
    note(rank, path, 1)
    if rank:
        time.sleep(PATIENCE)
        return
    await_all(path)
    time.sleep(0.1)
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 0)
    raise ValueError("measured")


def hold(rank: int, folder: str, load: Any = None) -> None:
    """Note how many descriptors this rank has, and hold the argument until the caller lets it go."""
    if load is not None:
        load.sum()  # reads all of it: pages that no process has touched would not count
    note(rank, f"{folder}/up", len(os.listdir("/proc/self/fd")) - 1)  # listdir has one open itself
    until = time.monotonic() + PATIENCE
    while not os.path.exists(f"{folder}/leave") and time.monotonic() < until:
        time.sleep(0.005)


def make_notes(path: str, ranks: int) -> str:
    """Make the file in which ranks note numbers."""
    with open(path, "wb") as file:
        file.write(bytes(8 * ranks))
    return path


def note(rank: int, path: str, number: int) -> None:
    """Note a rank's number."""
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, number.to_bytes(8, "little"), 8 * rank)
    os.close(fd)


def read_notes(path: str) -> Sequence[int]:
    """Return the numbers that ranks have noted, by rank."""
    with open(path, "rb") as file:
        data = file.read()
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def await_all(path: str) -> Sequence[int]:
    """Wait until all ranks have noted a number, and return the numbers."""
    until = time.monotonic() + PATIENCE
    while not all(notes := read_notes(path)):
        if time.monotonic() > until:
            raise TimeoutError(f"ranks are not up after {PATIENCE:.0f} s: {list(notes)}")
        time.sleep(0.005)
    return notes
