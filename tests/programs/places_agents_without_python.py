"""Starts ranks by a command, where sys.executable is None, and prints the error.

Argument: the file that the command would make.
"""

from __future__ import annotations

import sys

from procession import run

if __name__ == "__main__":
    sys.executable = None  # type: ignore[assignment]
    try:
        run(abs, nprocs=2, start_method="command", options={"command": ["touch", sys.argv[1]]})
    except RuntimeError as error:
        print(error)
