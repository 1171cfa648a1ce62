"""Has a rank make shared memory and fail, where the caller has no resource tracker.

Prints the last line of the failure, and whether the shared memory still exists after at most 10 seconds.
"""

from __future__ import annotations

import os
import time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

from procession import ProcessRaisedException, start_processes

TRACKER: Any = resource_tracker._resource_tracker


def make(rank: int, path: str) -> None:
    memory = shared_memory.SharedMemory(create=True, size=5)
    Path(path).write_text(memory.name)
    own_group = os.getpgid(TRACKER._pid) == os.getpid()
    raise ValueError("its tracker is killed with it" if own_group else "boom")


if __name__ == "__main__":
    assert TRACKER._fd is None
    try:
        start_processes(make, ("name",), start_method="fork")
    except ProcessRaisedException as error:
        print(str(error).splitlines()[-1])
    memory = Path("/dev/shm", Path("name").read_text())
    until = time.monotonic() + 10
    while memory.exists() and time.monotonic() < until:
        time.sleep(0.01)
    print(memory.exists())
