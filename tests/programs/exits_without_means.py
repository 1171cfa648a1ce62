"""Exits, or waits in an event loop, while its ranks work and it lacks what it had at the start.

Arguments: the start method; what it lacks; the folder into which ranks write when they are done.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import resource
import sys
import time
from pathlib import Path

from procession import ProcessContext, start_processes


def work(rank: int, folder: str) -> None:
    Path(folder, f"began {rank}").touch()
    time.sleep(0.5)
    Path(folder, f"done {rank}").touch()


def start(start_method: str, folder: str) -> ProcessContext:
    """Start two ranks, and wait until they work."""
    context = start_processes(work, (folder,), 2, join=False, start_method=start_method)
    while len(list(Path(folder).glob("began *"))) < 2:
        time.sleep(0.005)
    return context


def take_all_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    try:
        while True:
            os.dup(0)
    except OSError:
        pass


async def wait(context: ProcessContext) -> None:
    take_all_descriptors()
    await context


def main(start_method: str, lacks: str, folder: str) -> None:
    """Start ranks, and lose something."""
    if lacks == "time":
        atexit.register(start, start_method, folder)
        return
    context = start(start_method, folder)
    if lacks == "descriptors":
        take_all_descriptors()
    elif lacks == "imports":
        sys.meta_path.clear()
    elif lacks == "files":
        os.chroot(folder)
        os.chdir("/")
    elif lacks == "descriptors in a loop":
        asyncio.run(wait(context))


if __name__ == "__main__":
    main(*sys.argv[1:])
