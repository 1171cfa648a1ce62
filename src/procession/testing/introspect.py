"""Gives tests access to private parts of the core; no other module of the kit imports private rooms.

Names are imported on first use, as in `procession.authoring`, since the kit also runs in ranks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession._cleanup.cgroups import locate as locate_cgroup
    from procession._cleanup.marks import list_children
    from procession._forkserver.client import ServerHandle, stop_servers
    from procession._launch.starting import abort_start
    from procession._linux.procstat import read_mask, read_stat
    from procession._linux.syscalls import pidfd_open, pidfd_send_signal
    from procession._registry.entry_points import refresh as forget_plugins
    from procession._registry.validation import ask_availability, validate
    from procession._supervise.supervisor import SETTLING

_HOME = {
    "SETTLING": "_supervise.supervisor",
    "abort_start": "_launch.starting",
    "ask_availability": "_registry.validation",
    "forget_plugins": "_registry.entry_points:refresh",
    "list_children": "_cleanup.marks",
    "locate_cgroup": "_cleanup.cgroups:locate",
    "pidfd_open": "_linux.syscalls",
    "pidfd_send_signal": "_linux.syscalls",
    "read_mask": "_linux.procstat",
    "read_stat": "_linux.procstat",
    "stop_servers": "_forkserver.client",
    "validate": "_registry.validation",
}

__all__ = [
    "SETTLING",
    "abort_start",
    "ask_availability",
    "forget_plugins",
    "list_children",
    "list_descriptors",
    "list_kept",
    "list_servers",
    "locate_cgroup",
    "pidfd_open",
    "pidfd_send_signal",
    "read_mask",
    "read_stat",
    "reaper_pid",
    "stop_servers",
    "validate",
]


def list_kept() -> frozenset[int]:
    """Return the descriptors that the core keeps for this process alone."""
    from procession._linux import fds

    return frozenset(fds._kept)


def list_servers() -> list[ServerHandle]:
    """Return the running forkservers of this process, the one that was used last at the end.

    Those that take no launch any more, and end at the next launch, come first.
    """
    from procession._forkserver import client

    servers = [*client._retired, *client._servers.values()]
    return [server for server in servers if server.process is not None]


def list_descriptors(server: ServerHandle) -> list[int]:
    """Return the descriptors that this process has open for a forkserver that runs."""
    return [] if server.process is None else [server.process.sentinel, server._fd]


def reaper_pid() -> int:
    """Return the process id of the reaper that this process started last; 0 if there is none."""
    from procession._cleanup import reaper_client

    return 0 if reaper_client._line is None else reaper_client._line[3]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(f"procession.{module}"), attribute or name)
    globals()[name] = value
    return value
