"""A rank imports little: it names its process in the log, or returns much once imports fail."""

from __future__ import annotations

import sys

import procession


def name_process(rank: int) -> str | None:
    import logging

    return logging.LogRecord("name", 0, "path", 1, "text", (), None).processName


def return_much(rank: int) -> bytes:
    sys.meta_path.clear()
    return bytes(100_000)


if __name__ == "__main__":
    print(procession.run(name_process, nprocs=2, start_method=sys.argv[1]))
    print([*map(len, procession.run(return_much, nprocs=2, start_method=sys.argv[1]))])
