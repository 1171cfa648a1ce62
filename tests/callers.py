"""Start, watch and end a caller: a process that launches ranks, and that tests interrupt or kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from procession.testing.scratch import state_of
from procession.testing.times import patience

PATIENCE = 30.0
"""Seconds for which a test waits for a cue."""

GRACE = patience(3)
"""The grace period of the launch, in seconds; callers that clean up have the default one."""


class Caller:
    """A process that runs `main`, whose ranks leave cues in a folder."""

    def __init__(self, folder: Path, start_method: str, how: str, **options: Any) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, start_method, how, str(folder)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            **{"stderr": subprocess.PIPE, "text": True, **options},
        )

    def await_cue(self, cue: str) -> str:
        """Wait for a cue, and return its text."""
        path = self.folder / cue
        until = time.monotonic() + PATIENCE
        while not path.exists():
            assert self.process.poll() is None, f"the caller ended before {cue!r}"
            assert time.monotonic() < until, f"no {cue!r}"
            time.sleep(0.002)
        return path.read_text()

    def await_ranks(self) -> list[int]:
        """Wait until both ranks are in their function, and return their process ids."""
        return [int(self.await_cue(f"rank {rank}")) for rank in range(2)]

    def noted(self) -> list[int]:
        """Return the process ids of the ranks, and of what they have started."""
        files = [*self.folder.glob("rank *"), *self.folder.glob("pid *")]
        return [int(path.read_text() or path.name.split()[1]) for path in files]

    def assert_gone(self, seconds: float = 2.0) -> None:
        """Fail if a noted process still runs after so many seconds, scaled by `patience`."""
        until = time.monotonic() + patience(seconds)
        while left := [pid for pid in self.noted() if state_of(pid) not in "XZ"]:
            assert time.monotonic() < until, f"still running: {left}"
            time.sleep(0.002)

    def close(self) -> None:
        """Kill what is left."""
        for pid in (*self.noted(), self.process.pid):
            if state_of(pid) not in "XZ":
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


def act(rank: int, how: str, folder: str) -> None:
    """Act as a rank of the caller."""
    from procession.testing.bystanders import lock_forever
    from procession.testing.faults import fork_daemon, start_program, start_stranger
    from procession.testing.scratch import Stage

    stage = Stage(folder, 60)
    if how == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if how == "noting":
        signal.signal(signal.SIGINT, lambda *_: stage.tell(f"interrupted {rank}"))
    if how == "descendants":
        start_program(stage)
        if rank == 0:
            start_stranger(stage)
        else:
            fork_daemon(stage)
    stage.tell(f"rank {rank}", str(os.getpid()))
    if how == "in C":
        lock_forever()
    while True:
        try:
            time.sleep(stage.busy)
        except KeyboardInterrupt:
            if how == "catching":
                continue
            time.sleep(0.3)
            stage.tell(f"cleaned {rank}")
            raise


def main(start_method: str, how: str, folder: str) -> None:
    """Launch two ranks, and wait for them in all ways but ``leaving``."""
    import threading

    from procession import start_processes

    made: list[Any] = []

    def launch() -> None:
        options = {"fork_check": "off"} if start_method == "fork" else None
        keep = how == "keeps daemons"
        made.append(
            start_processes(
                act,
                ("descendants" if keep else how, folder),
                2,
                join=False,
                start_method=start_method,
                keep_daemons=keep,
                options=options,
            )
        )

    if how == "thread":
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    else:
        launch()
    if how == "leaving":
        return
    made[0].wait(grace_period=None if how == "cleaning" else GRACE)


if __name__ == "__main__":
    main(*sys.argv[1:])
