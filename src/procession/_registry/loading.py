"""Makes backends from instances, classes, factories and entry points; validates each, and makes it once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from threading import Lock, RLock
from typing import Any

from procession._registry.validation import validate
from procession.exceptions import BackendLoadError
from procession.protocol import Backend

PATIENCE = 10.0
"""Seconds for which a thread waits for another thread that makes the same backend."""

_made: dict[Hashable, Backend] = {}
_being_made: dict[Hashable, Any] = {}
_lock = Lock()


def get_made(key: Hashable) -> Backend | None:
    """Return the backend of a key, if it has been made."""
    return _made.get(key)


def forget_backend(key: Hashable) -> None:
    """Forget the backend of a key, if there is one."""
    _made.pop(key, None)
    _being_made.pop(key, None)


def make_backend(key: Hashable, *, name: str, origin: str, find: Callable[[], Any]) -> Backend:
    """Return the backend of a key; ``find`` returns an instance, a class or a factory.

    ``find`` may import and therefore runs without our lock.  Otherwise two threads could deadlock: one waits
    for the lock within an import, the other holds the lock and waits for that import.
    """
    backend = _made.get(key)
    if backend is None:
        found = _run(find, name=name, origin=origin)
        lock = _lock_of(key)
        # The wait is bounded for the same reason: a factory may import. Two backends may then be
        # made, of which one is kept.
        held = lock.acquire(timeout=PATIENCE)
        try:
            backend = _made.get(key)
            if backend is None:
                backend = _made.setdefault(key, _build(found, name=name, origin=origin))
        finally:
            if held:
                lock.release()
    return backend


def import_target(target: str) -> Any:
    """Import the object that an entry point names as ``module:attribute [extras]``."""
    from importlib import import_module

    module, _, attributes = target.partition("[")[0].partition(":")
    found: Any = import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        found = getattr(found, attribute)
    return found


def is_factory(found: Any) -> bool:
    """Tell whether an object makes a backend rather than being one: it is a class or a function."""
    return isinstance(found, type) or (callable(found) and not hasattr(found, "start"))


def _build(found: Any, *, name: str, origin: str) -> Backend:
    candidate = _run(found, name=name, origin=origin) if is_factory(found) else found
    return validate(candidate, name=name, origin=origin)


def _run(function: Callable[[], Any], *, name: str, origin: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:  # a module may call sys.exit
        reason = f"{type(error).__name__}: {error}"
        raise BackendLoadError(name, origin=origin, reason=reason) from error


def _lock_of(key: Hashable) -> Any:
    with _lock:
        return _being_made.setdefault(key, RLock())


def _renew_locks() -> None:
    global _lock
    _lock = Lock()
    _being_made.clear()


if hasattr(os, "register_at_fork"):  # the thread that holds a lock does not exist in the child
    os.register_at_fork(after_in_child=_renew_locks)
