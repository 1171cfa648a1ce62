"""A caller that gets SIGINT while it imports what it needs to wait for ranks; each rank leaves two cues.

Usage: interrupted_while_it_imports.py FOLDER START_METHOD
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from procession import start_processes

FOLDER = Path(sys.argv[1])


class Interrupting:
    """A finder that sends SIGINT at the import of `procession.context`, once both ranks work."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "procession.context":
            while not all((FOLDER / f"rank {rank}").exists() for rank in range(2)):
                time.sleep(0.002)
            os.kill(os.getpid(), signal.SIGINT)


def work(rank: int) -> None:
    try:
        (FOLDER / f"rank {rank}").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        (FOLDER / f"cleaned {rank}").touch()
        raise


if __name__ == "__main__":
    sys.meta_path.insert(0, Interrupting())
    start_processes(work, nprocs=2, start_method=sys.argv[2])
