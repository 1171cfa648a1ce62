"""Closes all descriptors by their numbers, opens files, and reports which of these are broken later.

Arguments: the start method; what to open.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from typing import Any

import procession


def open_files(kind: str) -> list[Any]:
    if kind == "files":
        return [tempfile.TemporaryFile() for _ in range(20)]
    if kind == "sockets":
        return [end for _ in range(10) for end in socket.socketpair()]
    return [os.fdopen(fd, "rb", 0) for _ in range(10) for fd in os.pipe()]


def find_broken(files: list[tuple[Any, int]]) -> list[int]:
    """Return the descriptors that are closed, or are another file's."""
    broken = []
    for file, identity in files:
        try:
            if os.fstat(file.fileno()).st_ino != identity:
                broken.append(file.fileno())
        except OSError:
            broken.append(file.fileno())
    return broken


def work(rank: int) -> int:
    return rank


def main(method: str, kind: str) -> None:
    assert procession.run(work, (), 2, start_method=method) == [0, 1]
    os.closerange(3, 256)
    files = [(file, os.fstat(file.fileno()).st_ino) for file in open_files(kind)]
    pid = os.fork()
    if pid == 0:
        os._exit(len(find_broken(files)))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(procession.run(work, (), 2, start_method=method), find_broken(files))


if __name__ == "__main__":
    main(*sys.argv[1:])
