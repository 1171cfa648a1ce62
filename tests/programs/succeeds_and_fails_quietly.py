"""Makes launches with small and large arguments, and one that fails.  Argument: the start method."""

from __future__ import annotations

import sys
from typing import Any

import standin
from procession import run


def len_of(rank: int, data: bytearray) -> int:
    return len(data)


def fail(rank: int) -> None:
    raise ValueError("on purpose")


if __name__ == "__main__":
    method = sys.argv[1]
    options = standin.options() if method == "command" else None
    call: dict[str, Any] = {"start_method": method, "options": options}
    for size in (1, 1 << 20):
        assert run(len_of, (bytearray(size),), 2, **call) == [size, size]
    try:
        run(fail, nprocs=2, **call)
    except Exception as error:
        if "on purpose" not in str(error):
            raise
