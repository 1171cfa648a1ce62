"""Kills the forkserver of two ranks that run, then lets them go on; prints their results, or the failure.

Usage: kills_its_server.py FOLDER HOW, where HOW is ``returns``, or ``fails`` for a rank that raises.
"""

from __future__ import annotations

import sys

from procession import ProcessException, start_processes
from procession.testing.introspect import list_servers
from procession.testing.scratch import Stage


def work(rank: int, folder: str, how: str) -> int:
    stage = Stage(folder, 60)
    stage.tell(f"ready {rank}")
    stage.await_cue("go")
    if how == "fails" and rank == 1:
        raise ValueError("after the server's end")
    return rank


def main(folder: str, how: str) -> None:
    stage = Stage(folder, 60)
    context = start_processes(
        work, (folder, how), 2, join=False, collect_results=True, start_method="forkserver"
    )
    for rank in range(2):
        stage.await_cue(f"ready {rank}")
    (server,) = list_servers()
    assert server.process is not None
    server.process.kill()
    server.process.join()
    stage.tell("go")
    try:
        print(context.results())
    except ProcessException as error:
        print(error.error_index, "after the server's end" in str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
