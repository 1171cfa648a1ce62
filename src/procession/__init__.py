"""Start N ranks of one function and supervise them until the last one exits.

Each name here is imported at its first use: `import procession` costs a caller, and above all a rank, next
to nothing.
"""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    __version__: str
    from procession._launch.per_rank import PerRank
    from procession._rank.stop_request import stop_requested
    from procession._registry.listing import BackendInfo, list_backends
    from procession._registry.lookup import get_backend
    from procession._registry.registration import register_backend
    from procession.api import get_context, run, spawn, start_processes
    from procession.context import ProcessContext, SpawnContext
    from procession.exceptions import (
        AmbiguousBackendError,
        BackendLoadError,
        BackendUnavailableError,
        IncompatibleBackendError,
        InvalidBackendError,
        ProcessException,
        ProcessExitedException,
        ProcessRaisedException,
        ProcessTimeoutError,
        ResultError,
        StartError,
        UnknownBackendError,
        UnsafeForkError,
        UnsafeForkWarning,
    )
    from procession.failure import Failure
    from procession.launch_options import LaunchOptions
    from procession.protocol import (
        PROTOCOL_VERSION,
        Availability,
        Backend,
        Capabilities,
        ErrorChannel,
        Launch,
        Process,
        Report,
        Sentinel,
        Signals,
        Started,
        SupportsDescendants,
        SupportsHost,
        SupportsRelease,
        SupportsSignal,
        SupportsStacks,
    )
    from procession.rank_place import RankInfo, RankPlace, rank_info, set_rank_info

_first_folder: str | None = getattr(
    sys.modules.get("multiprocessing.process"), "ORIGINAL_DIR", None
)
"""The earliest known working directory of this process; multiprocessing notes one when it is imported."""
if _first_folder is None:
    try:
        _first_folder = os.getcwd()
    except OSError:  # the directory was deleted
        pass

_HOME = {
    "api": ("get_context", "run", "spawn", "start_processes"),
    "context": ("ProcessContext", "SpawnContext"),
    "exceptions": (
        "AmbiguousBackendError",
        "BackendLoadError",
        "BackendUnavailableError",
        "IncompatibleBackendError",
        "InvalidBackendError",
        "ProcessException",
        "ProcessExitedException",
        "ProcessRaisedException",
        "ProcessTimeoutError",
        "ResultError",
        "StartError",
        "UnknownBackendError",
        "UnsafeForkError",
        "UnsafeForkWarning",
    ),
    "failure": ("Failure",),
    "launch_options": ("LaunchOptions",),
    "_launch.per_rank": ("PerRank",),
    "protocol": (
        "PROTOCOL_VERSION",
        "Availability",
        "Backend",
        "Capabilities",
        "ErrorChannel",
        "Launch",
        "Process",
        "Report",
        "Sentinel",
        "Signals",
        "Started",
        "SupportsDescendants",
        "SupportsHost",
        "SupportsRelease",
        "SupportsSignal",
        "SupportsStacks",
    ),
    "rank_place": ("RankInfo", "RankPlace", "rank_info", "set_rank_info"),
    "_registry.listing": ("BackendInfo", "list_backends"),
    "_registry.lookup": ("get_backend",),
    "_registry.registration": ("register_backend",),
    "_rank.stop_request": ("stop_requested",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # written out for type checkers; a test checks that it equals the table above
    "PROTOCOL_VERSION",
    "AmbiguousBackendError",
    "Availability",
    "Backend",
    "BackendInfo",
    "BackendLoadError",
    "BackendUnavailableError",
    "Capabilities",
    "ErrorChannel",
    "Failure",
    "IncompatibleBackendError",
    "InvalidBackendError",
    "Launch",
    "LaunchOptions",
    "PerRank",
    "Process",
    "ProcessContext",
    "ProcessException",
    "ProcessExitedException",
    "ProcessRaisedException",
    "ProcessTimeoutError",
    "RankInfo",
    "RankPlace",
    "Report",
    "ResultError",
    "Sentinel",
    "Signals",
    "SpawnContext",
    "StartError",
    "Started",
    "SupportsDescendants",
    "SupportsHost",
    "SupportsRelease",
    "SupportsSignal",
    "SupportsStacks",
    "UnknownBackendError",
    "UnsafeForkError",
    "UnsafeForkWarning",
    "__version__",
    "get_backend",
    "get_context",
    "list_backends",
    "rank_info",
    "register_backend",
    "run",
    "set_rank_info",
    "spawn",
    "start_processes",
    "stop_requested",
]


def _end_launches() -> None:
    """End launches that were started first in another exit handler, when it was too late to register one."""
    launches = sys.modules.get("procession._supervise.launches")
    if launches is not None:
        launches._end_all()


atexit.register(_end_launches)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("procession")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
