"""For backends whose ranks are on other hosts: agents hold the ranks, an engine places the agents.

A backend says how its engine starts N commands; that is all.  See docs/how-to/write-a-backend.md.
Agents import this package, and nothing of what their caller needs: a name is imported when it is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.remote.engine import Engine, start_by_command
    from procession.remote.launching import CAPABILITIES, start_agents
    from procession.remote.options import OPTIONS, Common, read_common
    from procession.remote.placement import VARIABLE, Agents, Placement
    from procession.remote.worker_agent import HostedAgent, host_agent

_MODULE_OF = {
    "CAPABILITIES": "launching",
    "OPTIONS": "options",
    "Agents": "placement",
    "Common": "options",
    "Engine": "engine",
    "HostedAgent": "worker_agent",
    "Placement": "placement",
    "VARIABLE": "placement",
    "host_agent": "worker_agent",
    "read_common": "options",
    "start_agents": "launching",
    "start_by_command": "engine",
}

__all__ = [
    "CAPABILITIES",
    "OPTIONS",
    "VARIABLE",
    "Agents",
    "Common",
    "Engine",
    "HostedAgent",
    "Placement",
    "host_agent",
    "read_common",
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
