"""Changes settings or rights between launches by forkserver; prints which servers serve these launches.

Arguments: the name of a function below; for ``wait_for_idle_server`` a file that lets a rank end.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import rights
from procession import run, start_processes
from procession.testing.scratch import is_gone


def get_server() -> int:
    """Return the process id of the forkserver that serves a launch now."""
    (server,) = run(rights.get_parent, start_method="forkserver")
    return server


def change_what_ranks_can_copy() -> None:
    before = get_server()
    os.umask(0o027)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    os.environ["CHANGED"] = "1"
    os.nice(1)
    print(get_server() == before)


def change_what_ranks_cannot_copy() -> None:
    os.nice(1)
    before = get_server()
    os.nice(-1)
    print(run(rights.facts, start_method="forkserver")[0] == rights.facts(0))
    print(get_server() == before)


def wait_for(rank: int, path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def drop_rights(path: str) -> None:
    """Drop rights while one server is idle and another has a rank."""
    before = get_server()
    options = {"preload": ["wave"]}  # another configuration, so another server
    busy = start_processes(
        wait_for, (path,), join=False, start_method="forkserver", options=options
    )
    rights.forbid_new_privileges()
    print(get_server() != before, is_gone(before))
    open(path, "w").close()
    busy.wait()
    print("served to the end")


def change_variables() -> None:
    seen = set()
    for value in ("1", "2", "3"):
        os.environ["CHANGING"] = value
        seen.add(get_server())
        os.environ["NEW " + value] = value
    print(len(seen))
    for value in ("4", "5"):  # one new server, which never had it
        del os.environ["CHANGING"]
        seen.add(get_server())
        os.environ["CHANGING"] = value
        seen.add(get_server())
    print(len(seen))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
