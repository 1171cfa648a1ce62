"""A stand-in for a batch system's launcher: ``standin.py N VARIABLE COMMAND...`` runs a command N times.

Each process finds its number in the variable.  STANDIN in the environment is Python code that runs before
each start.  It may change ``command``, ``env`` and ``rank``; if ``command`` is None, no process starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def options(more: str = "", **others: Any) -> dict[str, Any]:
    """Return options with which the start method ``command`` runs this script to place the agents."""
    os.environ["STANDIN"] = more
    launcher = [sys.executable, str(Path(__file__).resolve()), "{nprocs}", "STANDIN_RANK"]
    return {"command": launcher, "rank_variable": "STANDIN_RANK", **others}


def main() -> int:
    """Start all processes and wait for them; pass SIGTERM on."""
    count, variable, *command = sys.argv[1:]
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        for each in started:
            each.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    for rank in range(int(count)):
        names: dict[str, Any] = {"rank": rank, "command": command, "env": dict(os.environ)}
        exec(os.environ.get("STANDIN", ""), names)
        if names["command"] is not None:
            env = {**names["env"], variable: str(names["rank"])}
            started.append(subprocess.Popen(names["command"], env=env))
    return max((abs(each.wait()) for each in started), default=0)


if __name__ == "__main__":
    sys.exit(main())
