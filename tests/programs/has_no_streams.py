"""Makes a launch where standard streams are closed, and writes what it sees to files.

Usage: has_no_streams.py START_METHOD FOLDER OPENS

With "file" as OPENS it opens the file "own" before it imports anything that could take the number of a closed
stream.  It writes the file "outcome"; the standin writes the low descriptors of each agent to "low RANK".
"""

from __future__ import annotations

import os
import sys
import time

method, folder, opens = sys.argv[1:]
if __name__ == "__main__" and opens == "file":
    os.open(os.path.join(folder, "own"), os.O_WRONLY | os.O_CREAT)

import standin  # noqa: E402  # the file comes first
from procession import start_processes  # noqa: E402

LOOK = f"""
import os
names = os.listdir(f"/proc/{{os.getppid()}}/fd")
with open(os.path.join({folder!r}, f"low {{rank}}"), "w") as file:
    file.write(repr([(n, os.readlink(f"/proc/{{os.getppid()}}/fd/{{n}}")) for n in names if int(n) < 3]))
"""


def list_low() -> list[tuple[int, str]]:
    """List the standard streams that are open, and their files."""
    found = []
    for number in range(3):
        try:
            found.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except OSError:
            pass
    return found


def work(rank: int, path: str) -> tuple[int, bool]:
    try:
        os.write(2, b"NOISE")
    except OSError:  # closed, as the caller's
        pass
    while not os.path.exists(path):
        time.sleep(0.005)
    return rank, bytes(100_000) == bytes(100_000)


def launch() -> object:
    go = os.path.join(folder, "go")
    before = list_low()
    options = standin.options(LOOK) if method == "command" else None
    context = start_processes(
        work, (go,), 2, join=False, start_method=method, options=options, collect_results=True
    )
    stacks = sorted(context.dump_stacks())
    meanwhile = list_low()
    os.close(os.open(go, os.O_WRONLY | os.O_CREAT))
    return context.results(), stacks, meanwhile == before == list_low()


if __name__ == "__main__":
    try:
        text = repr(launch())
    except BaseException as error:
        text = repr(error)
    fd = os.open(os.path.join(folder, "outcome"), os.O_WRONLY | os.O_CREAT)
    os.write(fd, text.encode())
    os.close(fd)
