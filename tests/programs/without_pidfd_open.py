"""Launches a rank that fails where pidfd_open(2) is forbidden; prints whether its error is the launch's.

Both ranks start a program, a fork and a daemon, and note their process ids.
Arguments: the start method; the folder for the notes.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import forbidding
from procession import ProcessRaisedException, start_processes


def work(rank: int, folder: str) -> None:
    def note(pid: int) -> None:
        Path(folder, f"pid {pid}").touch()

    note(subprocess.Popen(["sleep", "60"]).pid)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    note(pid)
    note(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
    if rank == 0:
        while len(os.listdir(folder)) < 6:
            time.sleep(0.01)
        raise ValueError("boom")
    time.sleep(60)


if __name__ == "__main__":
    forbidding.forbid("pidfd_open", errno.ENOSYS)
    try:
        start_processes(work, (sys.argv[2],), nprocs=2, start_method=sys.argv[1])
    except ProcessRaisedException as error:
        print("boom" in str(error))
