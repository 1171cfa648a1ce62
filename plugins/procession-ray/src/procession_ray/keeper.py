"""What Ray's workers run: each keeps an agent as its child, and carries its connections where needed."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

from procession.remote import HostedAgent, host_agent
from procession.remote.handshake import greet_hub
from procession.remote.placement import unpack
from procession.remote.relay import Item, WorkerRelay

UNREACHABLE = "unreachable"
"""What `keep` returns where the caller's hub cannot be reached from here."""

_PROBE_TIME = 2.0  # seconds for the hub to answer


def keep(description: str, rank: int, payload: Sequence[Any], *, probe: bool) -> str:
    """Keep an agent that connects to the hub itself; return why that was in vain, or an empty string.

    ``payload`` holds a reference to the payload, if this node's is to come by Ray.  This is a task and no
    actor: the process is kept for the next, which then starts in milliseconds.
    """
    if probe and not reaches(description):
        return UNREACHABLE
    agent = start(description, rank, payload)
    try:
        return tell_code(agent.wait())
    finally:  # Ray cancels a task by a KeyboardInterrupt
        agent.stop()


class Keeper:
    """An actor, which keeps an agent whose connections Ray carries."""

    def __init__(self, contact_timeout: float) -> None:
        self._contact_timeout = contact_timeout
        self._relay: WorkerRelay | None = None
        self._agent: HostedAgent | None = None
        self._begun = threading.Event()

    def begin(self, description: str, rank: int, payload: Sequence[Any]) -> None:
        """Start the agent."""
        try:
            self._relay = WorkerRelay(self._contact_timeout)
            self._agent = start(description, rank, payload, hub=self._relay.address)
        finally:
            self._begun.set()

    def keep(self) -> str:
        """Wait for the agent's end, as `keep` does, and until all that it said has been fetched."""
        self._begun.wait()
        if self._agent is None or self._relay is None:
            return "its agent could not be started"
        try:
            return tell_code(self._agent.wait())
        finally:
            self._relay.finish()

    def pull(self, seconds: float) -> list[Item] | None:
        """See `WorkerRelay.pull`."""
        return self._relay.pull(seconds) if self._relay is not None else []

    def push(self, items: list[Item]) -> None:
        """See `WorkerRelay.push`."""
        if self._relay is not None:
            self._relay.push(items)

    def stop(self) -> None:
        """End the agent and the relay."""
        if self._agent is not None:
            self._agent.stop()
        if self._relay is not None:
            self._relay.close()


def start(description: str, rank: int, payload: Sequence[Any], **changes: Any) -> HostedAgent:
    """Start an agent, as `host_agent` does; other ranks are told this node's address as Ray knows it."""
    ray: Any = importlib.import_module("ray")
    changes["address"] = ray.util.get_node_ip_address()
    content = memoryview(ray.get(payload[0])) if payload else None
    return host_agent(description, rank, content, **changes)


def reaches(description: str) -> bool:
    """Tell whether the caller's hub answers from here; another program may listen at its address here."""
    told = unpack(description)
    try:
        with socket.create_connection(told["hub"], _PROBE_TIME) as sock:
            greet_hub(sock, told["secret"])
    except OSError:
        return False
    return True


def tell_code(code: int | None) -> str:
    """Return what is wrong with an agent's exit code."""
    return "" if code == 0 else f"its agent has ended with exit code {code}"
