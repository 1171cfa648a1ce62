"""System calls and locks as Python has them, even where gevent or eventlet has replaced them.

Both libraries replace functions of the standard library, before or after this module is imported.  Their
sockets do not block, their `os.close` comes later, and their waits switch to other greenlets.  A descriptor
that a rank shares, and a step that must not be interrupted, need the originals.  Neither patches `posix` and
`_thread.RLock`; both patch `select`, of which this module keeps what it finds or makes a fresh copy.
"""

from __future__ import annotations

import _thread
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

RLock = _thread.RLock

_system: Any = sys.modules[os.name]  # posix or nt: where `os` gets its functions
close: Callable[[int], None] = _system.close
read: Callable[[int, int], bytes] = _system.read
write: Callable[[int, Any], int] = _system.write
waitpid: Callable[[int, int], tuple[int, int]] = _system.waitpid
posix_spawnp: Any = getattr(_system, "posix_spawnp", None)


def _load_select() -> Any:
    """Return `select` as it is before it is patched."""
    import select

    spec = select.__spec__
    if isinstance(select.select, type(len)) or spec is None or spec.loader is None:
        return select
    from importlib.util import module_from_spec

    module = module_from_spec(spec)  # a second instance: the first one is patched
    spec.loader.exec_module(module)
    return module


_select = _load_select()
_select_function = _select.select
POLLIN: int = getattr(_select, "POLLIN", 0)
POLLOUT: int = getattr(_select, "POLLOUT", 0)
poll: Any = getattr(_select, "poll", None)
epoll: Any = getattr(_select, "epoll", None)

_subprocess: Any = None  # a copy of the module that uses the original calls


def is_patched() -> bool:
    """Return whether waits in this process may switch to other greenlets."""
    return sys.modules["select"].__dict__["select"] is not _select_function


def fork() -> int:
    """Fork without gevent's watch for the child's end: it would reap the child, and fails in a thread."""
    current: Any = os.fork
    pid: int = _system.fork() if _is_green(current) else current()
    return pid


def sleep(seconds: float) -> None:
    """Sleep for a moment without switching to other greenlets."""
    if sys.platform == "win32":  # where select(2) needs a descriptor
        import time

        time.sleep(seconds)
    else:
        _select_function([], [], [], seconds)


def is_ready(fd: int, seconds: float = 0, events: int = POLLIN) -> bool:
    """Return whether a descriptor is readable within so many seconds; no other greenlet runs meanwhile."""
    poller = poll()
    poller.register(fd, events)
    return bool(poller.poll(seconds * 1000))


def wait_readable(fd: int, seconds: float) -> bool:
    """Return whether a descriptor is readable within so many seconds; other greenlets run meanwhile."""
    if seconds and is_patched() and not is_ready(fd):
        from procession._python.greenlets import switch_until_readable

        if switch_until_readable(fd, seconds):
            return is_ready(fd)
    return is_ready(fd, seconds)


def acquire(lock: Any, seconds: float) -> bool:
    """Acquire a lock within so many seconds (-1: no limit); other greenlets run meanwhile."""
    if is_patched():
        from procession._python import greenlets

        return greenlets.acquire(lock, seconds)
    return bool(lock.acquire(timeout=seconds))


def get_subprocess() -> Any:
    """Return `subprocess`, or a copy if it is patched, whose Popen works in any thread and greenlet."""
    global _subprocess
    import subprocess

    if not (_is_green(subprocess.Popen) or _is_green(os.close)):
        return subprocess
    if _subprocess is None:
        from importlib.util import module_from_spec

        spec: Any = subprocess.__spec__
        module: Any = module_from_spec(spec)
        spec.loader.exec_module(module)
        for name in ("SubprocessError", "CalledProcessError", "TimeoutExpired"):
            setattr(module, name, getattr(subprocess, name))  # callers catch these
        module.os = ModuleType("os")
        vars(module.os).update(vars(os))
        vars(module.os).update({k: v for k, v in vars(_system).items() if hasattr(os, k)})
        _subprocess = module
    return _subprocess


def _is_green(function: Any) -> bool:
    """Return whether a function is one that gevent or eventlet put in the place of another."""
    return str(getattr(function, "__module__", "")).startswith(("gevent.", "eventlet."))
