"""A caller that drops its launch, or keeps it and never joins it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from procession import ProcessContext, get_context, start_processes
from procession.testing import introspect
from procession.testing.scratch import Stage, state_of


def act(rank: int, folder: str, what: str, queue: Any) -> None:
    """Wait for a cue and leave one, or fail."""
    stage = Stage(folder, 60)
    stage.tell(f"rank {rank}", str(os.getpid()))
    if what == "fails" and rank == 1:
        raise ValueError("boom")
    if what == "cannot end":
        stage.await_cue("never")
    if queue is not None:
        queue.put(rank)
    if what != "fails":
        stage.await_cue("go on")
        time.sleep(0.1)
        stage.tell(f"done {rank}")
    else:
        time.sleep(60)


def main(method: str, how: str, what: str, folder: str) -> None:
    """Launch two ranks, do not join them, and end with exit status 5."""
    queue = get_context(method).SimpleQueue() if how == "queue" else None
    context: ProcessContext | None = start_processes(
        act,
        (folder, what, queue),
        2,
        join=False,
        daemon=how == "daemons",
        start_method=method,
    )
    assert context is not None
    kept: Any = context.processes if how == "processes" else None
    if how != "keeps":
        context = None
    stage = Stage(folder, 60)
    for rank in range(2):
        stage.await_cue(f"rank {rank}")
    if queue is not None:
        stage.tell("got", str(sorted(queue.get() for _ in range(2))))
    if what == "again":  # another launch reaps the ranks of the first that have ended
        Path(folder, "go on").touch()
        while not all(Path(folder, f"done {rank}").exists() for rank in range(2)):
            time.sleep(0.01)
        time.sleep(0.5)
        start_processes(abs, nprocs=1, start_method=method)
        stage.tell("children", str(len(list_zombies())))
    stage.tell("leaving")
    if how == "sleeps":
        time.sleep(60)
    del kept
    sys.exit(5)


def list_zombies() -> list[int]:
    """Return the children of this process that have ended and were not reaped."""
    return [pid for pid in introspect.list_children(os.getpid()) if state_of(pid) == "Z"]


if __name__ == "__main__":
    main(*sys.argv[1:])
