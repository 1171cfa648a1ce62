"""Refuses to run a rank's function in a process that the rank shares with its caller or another rank.

A backend may call fn in the process that runs the tests, in a thread for instance.  A rank that ends its
process would then end the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "shared process"
"""The name of a file, in the folder that ranks share, that says which ranks share a process."""

_tester = 0  # the pid of the process that runs the tests; its forks inherit the value
_ranks: dict[str, int] = {}  # in a rank: the rank that this process is, by launch


def tests_run_here() -> None:
    """Note that this process runs the tests."""
    global _tester
    _tester = os.getpid()


class SharedProcessError(BaseException):
    """Raised in a rank that does not have its own process."""


class InOwnProcess:
    """Wraps a rank's function; the call raises if the rank does not have its own process."""

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
        text = f"{why}: each rank must have its own process"
        Path(self._folder, FILE).write_text(text, encoding="utf-8")
        raise SharedProcessError(text)


def find_shared(folder: Path) -> str:
    """Return which ranks of a launch shared a process; an empty string if none did."""
    try:
        return (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
