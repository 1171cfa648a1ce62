"""Where the ranks of one fault case meet: files in a folder, which every launcher can give them."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Stage:
    """Where the ranks of one case meet."""

    def __init__(self, folder: str, busy: float) -> None:
        self.folder: Path = Path(folder)
        self.busy: float = busy

    def work(self) -> None:
        """Do what a healthy rank does."""
        time.sleep(self.busy)

    def tell(self, cue: str, text: str = "") -> None:
        """Give a cue that others wait for."""
        draft = self.folder / f".{cue}.{os.getpid()}"
        draft.write_text(text)
        draft.rename(self.folder / cue)

    def await_cue(self, cue: str) -> str:
        """Wait for a cue, and return its text."""
        while (text := self.read(cue)) is None:
            time.sleep(0.001)
        return text

    def read(self, cue: str) -> str | None:
        """Return the text of a cue, None where it was not given yet."""
        try:
            return (self.folder / cue).read_text()
        except FileNotFoundError:
            return None

    def note(self, pid: int) -> None:
        """Note a process that must be gone once the launch has ended."""
        self.tell(f"pid {pid}")

    def noted(self) -> list[int]:
        """Return the processes noted."""
        return [int(path.name.split()[1]) for path in self.folder.glob("pid *")]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has."""
    return state_of(pid) in "XZ"


def state_of(pid: int) -> str:
    """Return the state letter of a process, ``X`` where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
