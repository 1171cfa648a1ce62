"""What Ray's workers run: each has an agent as its child, and carries the agent's messages if needed."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Any

from procession.remote import HostedAgent, host_agent, reaches_hub
from procession.remote.relay import Item, WorkerRelay

UNREACHABLE = "unreachable"
"""What `keep` returns if this worker cannot reach the caller's hub."""

_PROBE_TIME = 2.0  # seconds for the hub to answer


def keep(description: str, rank: int, payload: Sequence[Any], *, probe: bool) -> str:
    """Run an agent that connects to the hub itself; return why that failed, or an empty string.

    ``payload`` holds a reference to the payload if Ray brings it to this node.  This is a task, not an actor:
    Ray keeps the worker's process, so that the next task starts within milliseconds.
    """
    if probe and not reaches_hub(description, _PROBE_TIME):
        return UNREACHABLE
    agent = start(description, rank, payload)
    try:
        return tell_code(agent.wait())
    finally:  # Ray cancels a task by KeyboardInterrupt
        agent.stop()


class Keeper:
    """An actor that runs an agent whose messages Ray carries."""

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
        """Wait for the agent's end, as `keep` does, and until the caller has fetched all its messages."""
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
    """Start an agent by `host_agent`; other ranks get this node's address from Ray."""
    ray: Any = importlib.import_module("ray")
    changes["address"] = ray.util.get_node_ip_address()
    content = memoryview(ray.get(payload[0])) if payload else None
    return host_agent(description, rank, content, **changes)


def tell_code(code: int | None) -> str:
    """Return a message about an agent's exit code; an empty string if it is 0."""
    return "" if code == 0 else f"its agent has ended with exit code {code}"
