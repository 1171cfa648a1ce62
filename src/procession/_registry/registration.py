"""Keeps the backends that this process has registered itself, ahead of all that is installed."""

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
    """Where a candidate's backend comes from; ``key`` is what it is remembered by."""

    candidate: Candidate
    key: Hashable
    find: Callable[[], Any]


class Registration:
    """What `register_backend` returns: `undo`, or the end of a ``with`` block, takes it back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def undo(self) -> None:
        """Take the registration back; one that it replaced is in force again.  May be repeated."""
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


_lock = RLock()  # a finalizer that runs while it is held may undo a registration
_registered: dict[str, tuple[Source, ...]] = {}  # the last of a name is in force


def register_backend(
    name: str, backend: Backend | Callable[[], Backend], *, replace: bool = False
) -> Registration:
    """Make a backend known under a name in this process, ahead of whatever else has that name.

    Args:
        name: the start method.
        backend: the backend, or what makes it when it is first asked for.
        replace: whether the name may be that of another registration, or of a backend of ours.

    Returns:
        The registration, whose ``undo()`` takes it back; also a context manager that does.

    Raises:
        TypeError: the name is no str.
        ValueError: the name cannot be used, or is taken and ``replace`` is false.
        InvalidBackendError: the object is no backend.
    """
    _check_name(name)
    if not is_factory(backend):
        validate(backend, name=name, origin="runtime")
    registration = Registration(name)
    source = Source(Candidate(name, "runtime", _target_of(backend)), registration, lambda: backend)
    with _lock:
        stack = _registered.get(name, ())
        if not replace and (stack or name in BUILT_IN or name in FIRST_PARTY):
            raise ValueError(f"start method {name!r} exists already; replace=True replaces it")
        _registered[name] = (*stack, source)
        if name in BUILT_IN:
            replaced.add(name)
    if not is_factory(backend):
        load_source(source)
    return registration


def active_sources() -> dict[str, Source]:
    """Return the registration in force of every name that has one."""
    with _lock:
        return {name: stack[-1] for name, stack in _registered.items()}


def find_source(name: str) -> Source:
    """Return where the backend of a name comes from: a registration, else what is installed.

    Raises:
        UnknownBackendError: there is none.
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
    """Return the backend of a source, made when it is first asked for."""
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


if hasattr(os, "register_at_fork"):  # the thread that held the lock does not exist in the child
    os.register_at_fork(after_in_child=_renew_lock)
