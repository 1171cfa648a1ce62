"""What is closed a second time closes no other descriptor, which may have its number by then."""

from __future__ import annotations

import os
from typing import Any

import ranks
from procession import run, start_processes
from procession._forkserver import client
from procession._linux import fds


def assert_spares_others(item: Any) -> None:
    """Close something twice; between the calls another descriptor of this process gets its number."""
    number = item._fd
    item.close()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        if null != number:
            os.dup2(null, number)
        fds.keep(number)
        item.close()
        assert os.path.sameopenfile(null, number)
    finally:
        fds.drop(number)
        if null != number:
            os.close(null)


def test_a_server(no_servers: None) -> None:
    run(ranks.give, start_method="forkserver")
    [server] = client._servers.values()
    assert_spares_others(server)


def test_a_launch_on_a_server(no_servers: None) -> None:
    context = start_processes(ranks.nothing, nprocs=1, join=False, start_method="forkserver")
    process: Any = context.processes[0]
    launch = process._launch
    context.wait()
    assert_spares_others(launch)
