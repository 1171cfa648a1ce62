"""Keeps what ranks do in the kit out of every process that is not one rank's alone.

A backend may call fn in the process that tests, in a thread for instance.  A rank that ends its process
would end the tests there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "shared process"
"""The file, in the folder that ranks share, that says which process is not a rank's alone."""

_tester = 0  # the process that tests, in that process and, by another's number, in its forks
_ranks: dict[str, int] = {}  # in a rank: which rank of a launch this process is


def tests_run_here() -> None:
    """Take note that this process is the one that tests."""
    global _tester
    _tester = os.getpid()


class SharedProcessError(BaseException):
    """A rank does not have a process that is its alone."""


class InOwnProcess:
    """A rank's function that does nothing unless its process is that rank's alone."""

    def __init__(self, fn: Callable[..., object], folder: str) -> None:
        self.fn = fn
        self._folder = folder
        self._launch = os.urandom(8).hex()

    def __call__(self, rank: int, *args: object) -> Any:
        """Call the function in a rank."""
        if os.getpid() == _tester:
            self._refuse(f"rank {rank} runs in its caller's process ({os.getpid()})")
        other = _ranks.setdefault(self._launch, rank)
        if other != rank:
            self._refuse(f"ranks {other} and {rank} run in one process ({os.getpid()})")
        return self.fn(rank, *args)

    def _refuse(self, why: str) -> None:
        text = f"{why}: each rank must have a process of its own"
        Path(self._folder, FILE).write_text(text, encoding="utf-8")
        raise SharedProcessError(text)


def find_shared(folder: Path) -> str:
    """Return which process a launch's ranks have shared; an empty string if none."""
    try:
        return (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
