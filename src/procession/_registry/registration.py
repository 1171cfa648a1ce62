"""The backends that this process has registered, which take precedence over installed ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._registry.builtin import BUILT_IN, get_built_in, replaced
from procession._registry.catalog import FIRST_PARTY, Candidate, find_candidate
from procession._registry.loading import forget_backend, import_target, is_factory, make_backend
from procession._registry.validation import validate
from procession.protocol import Backend

if TYPE_CHECKING:
    from typing_extensions import Self


class Source(NamedTuple):
    """The origin of a candidate's backend; ``key`` identifies the backend once it is made."""

    candidate: Candidate
    key: Hashable
    find: Callable[[], Any]


class Registration:
    """A registration, as `register_backend` returns it; `undo` or the end of a ``with`` block removes it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def undo(self) -> None:
        """Remove the registration; one that it replaced is in force again.  May be called twice."""
        with _lock:
            stack = tuple(each for each in _registered.get(self.name, ()) if each.key is not self)
            _registered[self.name] = stack
            if not stack:
                del _registered[self.name]
                replaced.discard(self.name)
        forget_backend(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


_lock = RLock()  # re-entrant: a finalizer may undo a registration while the thread holds it
_registered: dict[str, tuple[Source, ...]] = {}  # the last of a name is in force


def register_backend(
    name: str, backend: Backend | Callable[[], Backend], *, replace: bool = False
) -> Registration:
    """Register a backend under a name in this process; it takes precedence over installed ones.

    Args:
        name: the start method.
        backend: the backend, or a class or function that makes it at the first use.
        replace: allow a name that is registered already, built in or reserved for a first-party plugin.

    Returns:
        The registration.  Its ``undo()`` removes it; so does the end of a ``with`` block.

    Raises:
        TypeError: the name is not a str.
        ValueError: the name cannot be used, or is taken and ``replace`` is false.
        InvalidBackendError: the object is not a backend.
    """
    _check_name(name)
    if not is_factory(backend):
        validate(backend, name=name, origin="runtime")
    registration = Registration(name)
    source = Source(Candidate(name, "runtime", _target_of(backend)), registration, lambda: backend)
    with _lock:
        stack = _registered.get(name, ())
        if not replace and (stack or name in BUILT_IN or name in FIRST_PARTY):
            raise ValueError(
                f"start method {name!r} already exists; pass replace=True to replace it"
            )
        _registered[name] = (*stack, source)
        if name in BUILT_IN:
            replaced.add(name)
    if not is_factory(backend):
        load_source(source)
    return registration


def active_sources() -> dict[str, Source]:
    """Return the registrations in force, by name."""
    with _lock:
        return {name: stack[-1] for name, stack in _registered.items()}


def find_source(name: str) -> Source:
    """Return the source of a name's backend: a registration, or else an installed distribution.

    Raises:
        UnknownBackendError: there is no such start method.
        AmbiguousBackendError: several distributions provide it.
    """
    active = active_sources()
    return active.get(name) or as_source(find_candidate(name, registered=active))


def as_source(candidate: Candidate) -> Source:
    """Return the source of a built-in backend, or of an entry point."""
    if candidate.origin == "built-in":
        return Source(candidate, candidate.target, lambda: get_built_in(candidate.name))
    return Source(candidate, candidate.target, lambda: import_target(candidate.target))


def load_source(source: Source) -> Backend:
    """Return the backend of a source; make it at the first call."""
    candidate = source.candidate
    return make_backend(source.key, name=candidate.name, origin=str(candidate), find=source.find)


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r}")
    if not name or ":" in name or name != name.strip():
        raise ValueError(f"name must be a word without ':', not {name!r}")


def _target_of(backend: Any) -> str:
    named = backend if hasattr(backend, "__qualname__") else type(backend)
    return f"{named.__module__}:{named.__qualname__}"


def _renew_lock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # the thread that holds the lock does not exist in the child
    os.register_at_fork(after_in_child=_renew_lock)
