"""Gives up root's user and group, then launches ranks that print their process id and that of a daemon.

Arguments: "user" for the real user, "effective user" or "effective group"; the start method; with "user"
perhaps "keep daemons".  With the effective ones a line "stop" on standard input stops the ranks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import rights
from procession import run, start_processes


def work(rank: int) -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    os.write(1, f"{os.getpid()} {child.pid}\n".encode())
    time.sleep(600)


def change_user(method: str, *keep: str) -> None:
    run(abs, nprocs=2, start_method=method)
    rights.change("user")
    start_processes(work, (), 3, start_method=method, keep_daemons=bool(keep))


def change_effective(method: str, *, user: bool) -> None:
    if method == "fork":  # what it imports, that user may not be able to read
        with start_processes(abs, (), 1, start_method="fork", join=False) as context:
            context.wait(0.1)
    os.chdir("/")
    rights.change("effective gid")
    if user:
        os.seteuid(65534)
    context = start_processes(work, (), 2, start_method=method, join=False)
    if sys.stdin.readline() == "stop\n":
        with context:
            pass
    context.wait()


if __name__ == "__main__":
    if sys.argv[1] == "user":
        change_user(*sys.argv[2:])
    else:
        change_effective(sys.argv[2], user=sys.argv[1] == "effective user")
