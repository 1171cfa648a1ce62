"""Gives the process id of a rank that has ended to a stranger, and then stops the launch.

Usage: meets_reused_number.py START_METHOD, as process 1 of a namespace of process ids.

Prints the exit status of the stranger: None if it still runs.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from procession import start_processes


def nothing(rank: int) -> None:
    pass


def wait_until_reaped(pid: int) -> None:
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until
        time.sleep(0.001)


def start_stranger(pid: int) -> subprocess.Popen[bytes]:
    """Start a process, in a group of its own, that gets a number."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    stranger = subprocess.Popen(["sleep", "60"], process_group=0)  # type: ignore[call-overload]
    assert stranger.pid == pid, (stranger.pid, pid)
    return stranger  # type: ignore[no-any-return]


def main(start_method: str) -> None:
    context = start_processes(nothing, nprocs=1, join=False, start_method=start_method)
    (process,), (sentinel,) = context.processes, context.sentinels
    pid = process.pid
    assert pid is not None
    poll = select.poll()
    poll.register(sentinel, select.POLLIN)
    assert poll.poll(10_000)
    try:  # another wait than the library's takes the status, and frees the number
        os.waitpid(pid, 0)
    except ChildProcessError:  # the child of the forkserver
        pass
    wait_until_reaped(pid)
    stranger = start_stranger(pid)
    process.terminate()
    process.kill()
    context.terminate()
    assert context.wait()
    time.sleep(0.05)
    print(stranger.poll())
    stranger.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
