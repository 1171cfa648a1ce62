"""Gives tests access to private parts of the core; no other module of the kit imports private rooms.

Names are imported on first use, as in `procession.authoring`, since the kit also runs in ranks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession._cleanup.cgroups import locate as locate_cgroup
    from procession._cleanup.marks import list_children
    from procession._forkserver.client import stop_servers
    from procession._launch.starting import abort_start
    from procession._linux.procstat import read_stat
    from procession._linux.syscalls import pidfd_open, pidfd_send_signal
    from procession._registry.validation import ask_availability, validate

_HOME = {
    "abort_start": "_launch.starting",
    "ask_availability": "_registry.validation",
    "list_children": "_cleanup.marks",
    "locate_cgroup": "_cleanup.cgroups:locate",
    "pidfd_open": "_linux.syscalls",
    "pidfd_send_signal": "_linux.syscalls",
    "read_stat": "_linux.procstat",
    "stop_servers": "_forkserver.client",
    "validate": "_registry.validation",
}

__all__ = [
    "abort_start",
    "ask_availability",
    "list_children",
    "list_kept",
    "locate_cgroup",
    "pidfd_open",
    "pidfd_send_signal",
    "read_stat",
    "stop_servers",
    "validate",
]


def list_kept() -> frozenset[int]:
    """Return the descriptors that the core keeps for this process alone."""
    from procession._linux import fds

    return frozenset(fds._kept)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(f"procession.{module}"), attribute or name)
    globals()[name] = value
    return value
