"""After SIGTERM at any line between the start of ranks and the wait for them, both ranks save their work.

Prints the lines at which they did not.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import procession
import procession.context  # here, so that the forks need not
from procession import run

HERE = os.path.dirname(procession.__file__)
NPROCS = 2


def save(rank: int, folder: str) -> None:
    """Leave a file at SIGTERM."""

    def leave(*_: object) -> None:
        Path(folder, f"saved {rank}").touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    Path(folder, f"ready {rank}").touch()
    while True:  # a signal just before a system call does not interrupt the call
        time.sleep(0.01)


class Terminator:
    """Raises SIGTERM at the ``at``-th line of the library between the start of a supervisor and its run."""

    def __init__(self, at: int, folder: str) -> None:
        self.at, self.folder, self.seen = at, folder, -1
        self._owner = os.getpid()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(HERE) or os.getpid() != self._owner:
            return None
        place = (event, os.path.basename(code.co_filename), code.co_name)
        if place == ("call", "supervisor.py", "__init__") and self.seen < 0:
            self._await_ranks()
            self.seen = 0
        if place == ("call", "supervisor.py", "run"):
            self._terminate(f"after {self.seen} lines")
        elif event == "line" and self.seen >= 0:
            self.seen += 1
            if self.seen == self.at:
                self._terminate(f"{code.co_filename}:{frame.f_lineno}")
        return self

    def _await_ranks(self) -> None:
        while len(list(Path(self.folder).glob("ready *"))) < NPROCS:
            time.sleep(0.001)

    def _terminate(self, where: str) -> None:
        sys.settrace(None)
        Path(self.folder, "where").write_text(where)
        signal.raise_signal(signal.SIGTERM)


def play(at: int, start_method: str) -> bool:
    """Launch in a fork of this process; return whether there was such a line."""
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if not pid:
            sys.settrace(Terminator(at, folder))
            run(save, (folder,), NPROCS, start_method=start_method)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        where = Path(folder, "where").read_text()
        if status != -signal.SIGTERM or len(list(Path(folder).glob("saved *"))) < NPROCS:
            print(where, status)
        return not where.startswith("after")


if __name__ == "__main__":
    number = 1
    while play(number, sys.argv[1]):
        number += 1
    assert number > 20, number
