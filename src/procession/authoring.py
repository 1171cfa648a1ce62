"""For authors of backends: what the core does for its own, and other backends need as well.

A name is imported when it is first used, so that a rank or a worker may import this module at no cost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession._cleanup.leave_launch import leave_launch
    from procession._cleanup.marks import list_children
    from procession._launch.environment import merge
    from procession._launch.fork_check import find_initialised
    from procession._linux.fds import LOCK as FD_LOCK
    from procession._linux.fds import drop as drop_fd
    from procession._linux.fds import keep as keep_fd
    from procession._linux.syscalls import pidfd_open
    from procession._python.defer_signals import defer_sigint
    from procession._python.interpreter import SOURCE, find_executable, interpreter_flags
    from procession._rank.identity import when_imported
    from procession.exceptions import note_on

_HOME = {
    "FD_LOCK": "_linux.fds:LOCK",
    "SOURCE": "_python.interpreter:SOURCE",
    "defer_sigint": "_python.defer_signals:defer_sigint",
    "drop_fd": "_linux.fds:drop",
    "find_executable": "_python.interpreter:find_executable",
    "find_initialised": "_launch.fork_check:find_initialised",
    "interpreter_flags": "_python.interpreter:interpreter_flags",
    "keep_fd": "_linux.fds:keep",
    "leave_launch": "_cleanup.leave_launch:leave_launch",
    "list_children": "_cleanup.marks:list_children",
    "merge": "_launch.environment:merge",
    "note_on": "exceptions:note_on",
    "pidfd_open": "_linux.syscalls:pidfd_open",
    "when_imported": "_rank.identity:when_imported",
}

__all__ = [
    "FD_LOCK",
    "SOURCE",
    "defer_sigint",
    "drop_fd",
    "find_executable",
    "find_initialised",
    "interpreter_flags",
    "keep_fd",
    "leave_launch",
    "list_children",
    "merge",
    "note_on",
    "pidfd_open",
    "when_imported",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(f"procession.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
