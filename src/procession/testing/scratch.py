"""How the ranks of a test coordinate: by files in a folder that all of them see."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Stage:
    """The folder in which the ranks of one test coordinate; ``busy`` is how long they work, in seconds."""

    def __init__(self, folder: str, busy: float) -> None:
        self.folder: Path = Path(folder)
        self.busy: float = busy

    def work(self) -> None:
        """Sleep for ``busy`` seconds, as a healthy rank does."""
        time.sleep(self.busy)

    def tell(self, cue: str, text: str = "") -> None:
        """Give a cue, with a text, that others wait for."""
        draft = self.folder / f".{cue}.{os.getpid()}"
        draft.write_text(text)
        draft.rename(self.folder / cue)

    def await_cue(self, cue: str) -> str:
        """Wait for a cue, and return its text."""
        while (text := self.read(cue)) is None:
            time.sleep(0.001)
        return text

    def read(self, cue: str) -> str | None:
        """Return the text of a cue; None if it was not given yet."""
        try:
            return (self.folder / cue).read_text()
        except FileNotFoundError:
            return None

    def note(self, pid: int) -> None:
        """Note a process that must be gone after the launch."""
        self.tell(f"pid {pid}")

    def noted(self) -> list[int]:
        """Return the pids of the noted processes."""
        return [int(path.name.split()[1]) for path in self.folder.glob("pid *")]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie counts as ended."""
    return state_of(pid) in "XZ"


def state_of(pid: int) -> str:
    """Return the state letter of a process; ``X`` if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
