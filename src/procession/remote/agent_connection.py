"""What a hub knows of each rank whose agent has come: its two connections, and what the agent said."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any, NamedTuple

from procession.remote.link import Link

VERSION: list[int] = [1, *sys.version_info[:2]]
"""The version of what hub and agent tell each other, and of Python, on which pickles and `marshal` depend."""


@functools.cache
def read_boot_id() -> str:
    """Return what is the same for all processes of a machine, until it is booted again (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class AgentConnection(NamedTuple):
    """A rank's agent.

    ``control`` carries frames both ways.  On ``end`` the agent sends the rank's exit code and closes: it is
    the rank's sentinel.
    """

    rank: int
    control: Link
    end: Link
    hello: dict[str, Any]

    @property
    def host(self) -> str:
        """The name of its host."""
        return str(self.hello["host"])

    @property
    def place(self) -> tuple[Any, ...]:
        """What is equal for agents that can read each other's files: host, namespaces, user."""
        return tuple(self.hello["place"])

    @property
    def has_payload(self) -> bool:
        """Whether its engine has brought it the payload."""
        return bool(self.hello["has_payload"])

    @property
    def clock_offset(self) -> int:
        """What its host's monotonic clock is behind this one's, in ns; exact on this machine."""
        return int(self.hello["offset"])

    def close(self) -> None:
        """Close both connections; the agent then ends its rank, and itself."""
        self.control.close()
        self.end.close()


def number_locally(connections: list[AgentConnection]) -> list[tuple[int, int]]:
    """Return each rank's number among those of its host, and how many these are."""
    hosts: dict[str, int] = {}
    numbers = []
    for connection in connections:
        numbers.append(hosts.get(connection.host, 0))
        hosts[connection.host] = numbers[-1] + 1
    return [
        (number, hosts[connection.host])
        for number, connection in zip(numbers, connections, strict=True)
    ]


def note_clock(hello: dict[str, Any]) -> None:
    """Note in what an agent has just said how far its clock is behind this machine's."""
    here = hello["boot"] == read_boot_id()
    hello["offset"] = 0 if here else time.monotonic_ns() - hello["clock"]
