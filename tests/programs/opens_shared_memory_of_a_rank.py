"""Prints what shared memory holds that a rank has left it.  Argument: the start method.

The caller imports `multiprocessing.shared_memory` only once the rank has ended.
"""

from __future__ import annotations

import sys
from typing import Any

from procession import run


def make(rank: int) -> str:
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=5)
    buffer: Any = memory.buf
    buffer[:5] = b"alive"
    del buffer
    memory.close()
    return memory.name


def main() -> None:
    (name,) = run(make, start_method=sys.argv[1])
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(name)
    print(bytes(memory.buf or b"")[:5].decode())
    memory.close()
    memory.unlink()


if __name__ == "__main__":
    main()
