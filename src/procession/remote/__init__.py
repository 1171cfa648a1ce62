"""For backends whose ranks run on other hosts: an engine starts agents, and each agent holds one rank.

A backend only describes how its engine starts N commands: see docs/how-to/write-a-backend.md.  Names are
imported on first use, so that an agent, which imports this package, does not import what only callers need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.remote.agent import run_agent
    from procession.remote.agent_connection import VERSION, read_boot_id
    from procession.remote.engine import Engine, start_by_command
    from procession.remote.launching import CAPABILITIES, start_agents
    from procession.remote.options import OPTIONS, Common, read_common
    from procession.remote.placement import SHARED_FROM, VARIABLE, Agents, Placement
    from procession.remote.worker_agent import HostedAgent, host_agent, reaches_hub

_MODULE_OF = {
    "CAPABILITIES": "launching",
    "OPTIONS": "options",
    "SHARED_FROM": "placement",
    "Agents": "placement",
    "Common": "options",
    "Engine": "engine",
    "HostedAgent": "worker_agent",
    "Placement": "placement",
    "VARIABLE": "placement",
    "host_agent": "worker_agent",
    "reaches_hub": "worker_agent",
    "run_agent": "agent",
    "VERSION": "agent_connection",
    "read_boot_id": "agent_connection",
    "read_common": "options",
    "start_agents": "launching",
    "start_by_command": "engine",
}

__all__ = [
    "CAPABILITIES",
    "OPTIONS",
    "SHARED_FROM",
    "VARIABLE",
    "VERSION",
    "Agents",
    "Common",
    "Engine",
    "HostedAgent",
    "Placement",
    "host_agent",
    "reaches_hub",
    "read_boot_id",
    "read_common",
    "run_agent",
    "start_agents",
    "start_by_command",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
