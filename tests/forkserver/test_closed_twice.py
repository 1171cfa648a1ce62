"""What is closed a second time closes no other descriptor, which may have its number by then."""

from __future__ import annotations

import os
import socket
from typing import Protocol

import ranks
from procession import run
from procession._forkserver.handles import LaunchHandle
from procession._linux import fds
from procession.testing.introspect import list_kept, list_servers


class Closable(Protocol):
    def close(self) -> None: ...


def assert_spares_others(item: Closable) -> None:
    """Close something twice; between the calls other descriptors of this process get its numbers."""
    before = list_kept()
    item.close()
    numbers = before - list_kept()
    assert numbers
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        for number in numbers - {null}:
            os.dup2(null, number)
        for number in numbers:
            fds.keep(number)
        item.close()
        assert all(os.path.sameopenfile(null, number) for number in numbers)
    finally:
        for number in numbers:
            fds.drop(number)
        if null not in numbers:
            os.close(null)


def test_a_server_closes_nothing_the_second_time(no_servers: None) -> None:
    run(ranks.give, start_method="forkserver")
    (server,) = list_servers()
    assert_spares_others(server)


def test_a_launch_on_a_server_closes_nothing_the_second_time() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert_spares_others(LaunchHandle(ours, lambda: None))
