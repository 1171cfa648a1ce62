"""Launches a rank, enters a new namespace, launches another; prints whether each was in its caller's.

Arguments: the start method; the name of the namespace in /proc; its flag of unshare(2), in hexadecimal.
"""

from __future__ import annotations

import ctypes
import os
import sys

from procession import run


def see(rank: int, name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def main(start_method: str, name: str, flag: str) -> None:
    print(run(see, (name,), 1, start_method=start_method) == [see(0, name)])
    before = see(0, name)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(int(flag, 16)) or see(0, name) == before:
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    print(run(see, (name,), 1, start_method=start_method) == [see(0, name)])


if __name__ == "__main__":
    main(*sys.argv[1:])
