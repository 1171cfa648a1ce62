"""Launches where no file can be created, in memory or elsewhere; prints the error."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

import forbidding
from procession import run


def main() -> None:
    forbidding.forbid("memfd_create", errno.EPERM)
    access = os.access

    def deny_shared_memory(path: str, *more: Any) -> bool:
        return path != "/dev/shm" and access(path, *more)

    system: Any = os
    system.access = deny_shared_memory
    tempfile.tempdir = "/nowhere"
    try:
        run(abs, start_method="spawn")
    except OSError as error:
        print(error)


if __name__ == "__main__":
    main()
