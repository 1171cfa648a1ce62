"""Replaces the reaper while a launch runs, whose rank has started a process; then kills itself.

Usage: replaces_its_reaper.py FOLDER HOW, where HOW is ``killed`` for a reaper that is killed, or ``stopped``
for one that reads no more.

Prints the process id of what the rank has started.
"""

from __future__ import annotations

import os
import signal
import sys

from procession import start_processes
from procession._cleanup import marks, reaper_client
from procession.testing.faults import start_stranger
from procession.testing.introspect import reaper_pid
from procession.testing.scratch import Stage, is_gone


def work(rank: int, folder: str) -> None:
    stage = Stage(folder, 60)
    start_stranger(stage)
    stage.tell("there")
    stage.work()


def nothing(rank: int) -> None:
    pass


def main(folder: str, how: str) -> None:
    stage = Stage(folder, 0)
    context = start_processes(work, (folder,), 1, join=False, start_method="fork")
    stage.await_cue("there")
    first = reaper_pid()
    if how == "killed":
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    else:
        os.kill(first, signal.SIGSTOP)
        mark = marks.mark_of(os.urandom(8).hex())
        while reaper_pid() == first:  # the buffer of its socket fills
            reaper_client.announce(mark)
        reaper_client.withdraw(mark)
    start_processes(nothing, start_method="fork")
    assert reaper_pid() != first
    (pid,) = stage.noted()
    assert not is_gone(pid)
    assert context.wait(0) is False
    print(pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
