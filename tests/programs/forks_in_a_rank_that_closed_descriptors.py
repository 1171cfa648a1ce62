"""Forks in ranks that closed all descriptors by number and opened files; prints the forks' wait statuses.

Arguments: the start method; a file for the ranks to write to.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import procession


def nothing(rank: int) -> None:
    pass


def work(rank: int, path: str) -> None:
    procession.run(nothing, (), 2, start_method="fork")
    os.closerange(3, 256)
    files = [tempfile.TemporaryFile() for _ in range(20)]
    pid = os.fork()
    if pid == 0:
        for file in files:
            os.fstat(file.fileno())
        os._exit(0)
    with open(path, "a") as output:
        output.write(str(os.waitpid(pid, 0)[1]))
    os._exit(0)


def main(method: str, path: str) -> None:
    procession.start_processes(work, (path,), 2, start_method=method, allow_early_exit=True)
    print(Path(path).read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
