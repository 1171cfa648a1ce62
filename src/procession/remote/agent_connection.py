"""`AgentConnection`: the two connections of an agent that has arrived, and its hello."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any, NamedTuple

from procession.remote.link import Link
from procession.remote.messages import ArrivedHello

VERSION: list[int] = [1, *sys.version_info[:2]]
"""The version of the protocol between hub and agent, and of Python, on which pickles and `marshal` depend."""


@functools.cache
def read_boot_id() -> str:
    """Return the boot id (random(4)): equal for all processes of a machine, new with each boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class AgentConnection(NamedTuple):
    """The connections of one agent.

    ``control`` carries frames both ways.  ``end`` is the rank's sentinel: the agent sends the exit code on
    it, and closes it.  ``hello`` is what the agent sent first.
    """

    rank: int
    control: Link
    end: Link
    hello: ArrivedHello

    @property
    def host(self) -> str:
        """The name of the agent's host."""
        return str(self.hello["host"])

    @property
    def place(self) -> tuple[Any, ...]:
        """Host, namespaces and user: equal for agents that can read each other's files."""
        return tuple(self.hello["place"])

    @property
    def has_payload(self) -> bool:
        """Whether the engine delivered the payload to the agent."""
        return bool(self.hello["has_payload"])

    @property
    def clock_offset(self) -> int:
        """Nanoseconds by which the agent's monotonic clock is behind ours; exact on this machine."""
        return int(self.hello.get("offset", 0))

    def close(self) -> None:
        """Close both connections; the agent then ends its rank and exits."""
        self.control.close()
        self.end.close()


def number_locally(connections: list[AgentConnection]) -> list[tuple[int, int]]:
    """Return for each rank its number on its host, and the number of ranks there."""
    hosts: dict[str, int] = {}
    numbers = []
    for connection in connections:
        numbers.append(hosts.get(connection.host, 0))
        hosts[connection.host] = numbers[-1] + 1
    return [
        (number, hosts[connection.host])
        for number, connection in zip(numbers, connections, strict=True)
    ]


def note_clock(hello: ArrivedHello) -> None:
    """Add to a hello that has just arrived how far its clock is behind this machine's."""
    here = hello["boot"] == read_boot_id()
    hello["offset"] = 0 if here else time.monotonic_ns() - hello["clock"]
