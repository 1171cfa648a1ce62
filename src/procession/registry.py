"""Finds the backend that a caller names: an object, a registration, a built-in or a plugin."""

from __future__ import annotations

import os
from typing import NamedTuple

from procession.built_in import import_built_in
from procession.catalog import (
    Candidate,
    add_version,
    find_candidate,
    list_candidates,
)
from procession.exceptions import (
    AmbiguousBackendError,
    BackendLoadError,
    BackendUnavailableError,
    IncompatibleBackendError,
    InvalidBackendError,
    UnknownBackendError,
)
from procession.loading import get_made, import_target
from procession.protocol import Backend, Capabilities
from procession.registration import Source, active_sources, load_source, register_backend
from procession.validation import ask_availability, validate

__all__ = ["BackendInfo", "check_backend", "get_backend", "list_backends", "register_backend"]

DEFAULT = "PROCESSION_START_METHOD"

_ERRORS = (
    AmbiguousBackendError,
    BackendLoadError,
    BackendUnavailableError,
    IncompatibleBackendError,
    InvalidBackendError,
    UnknownBackendError,
)


class BackendInfo(NamedTuple):
    """One line of the list of backends.

    ``origin`` is ``runtime``, ``built-in``, ``first-party`` or ``third-party``.  ``status`` is
    ``ok``, ``unavailable`` (on this machine), ``not loaded`` (a plugin that nobody has asked for
    yet), ``broken``, ``ambiguous``, ``shadowed`` (another one has its name), ``not allowed`` (by
    PROCESSION_PLUGINS) or ``unknown``.  ``capabilities`` is None where the backend is not loaded.
    """

    name: str
    origin: str
    distribution: str
    version: str
    target: str
    status: str
    reason: str = ""
    hint: str = ""
    capabilities: Capabilities | None = None


def get_backend(start_method: str | Backend | None = None) -> Backend:
    """Return the backend of a start method, ready to use here.

    Args:
        start_method: a name; ``distribution:name`` where several distributions provide that name;
            a backend; or None: what PROCESSION_START_METHOD says, else the method that
            `multiprocessing` uses.

    Raises:
        TypeError: it is neither a name nor a backend.
        UnknownBackendError: there is no such start method.
        AmbiguousBackendError: several distributions provide it.
        BackendLoadError: it cannot be imported.
        InvalidBackendError: it is no backend.
        IncompatibleBackendError: it was written for another version of the protocol.
        BackendUnavailableError: it cannot be used on this machine.
    """
    if start_method is not None:
        return _resolve(start_method)
    name = os.environ.get(DEFAULT)
    if name is None:
        from multiprocessing import get_context

        return _resolve(get_context(None).get_start_method())
    try:
        return _resolve(name)
    except _ERRORS as error:
        raise error.explained(f"{DEFAULT}={name!r} asked for it") from error.__cause__


def list_backends() -> list[BackendInfo]:
    """Return every backend there is, importing no plugin for it."""
    active = active_sources()
    others = [_overrule(_as_source(each), active) for each in list_candidates()]
    return [_inform(source) for source in (*active.values(), *others)]


def check_backend(name: str, *, load: bool = True) -> BackendInfo:
    """Tell what the backend of that name is, or what is wrong with it; import it if ``load``."""
    try:
        source = _find(name)
    except UnknownBackendError as error:
        return BackendInfo(name, "", "", "", "", "unknown", str(error))
    except AmbiguousBackendError as error:
        return BackendInfo(name, "third-party", "", "", "", "ambiguous", str(error))
    source = source._replace(candidate=add_version(source.candidate))
    return _load_and_inform(source) if load else _inform(source)


def _resolve(start_method: str | Backend) -> Backend:
    if isinstance(start_method, str):
        name, backend = start_method, load_source(_find(start_method))
    elif hasattr(start_method, "start"):
        name = str(getattr(start_method, "name", start_method))
        backend = validate(start_method, name=name, origin="passed as start_method")
    else:
        raise TypeError(f"start_method must be a name or a backend, not {start_method!r}")
    available = ask_availability(backend)
    if not available.ok:
        raise BackendUnavailableError(name, reason=available.reason, hint=available.hint)
    return backend


def _find(name: str) -> Source:
    active = active_sources()
    return active.get(name) or _as_source(find_candidate(name, registered=active))


def _as_source(candidate: Candidate) -> Source:
    if candidate.origin == "built-in":
        return Source(candidate, candidate.target, lambda: import_built_in(candidate.name))
    return Source(candidate, candidate.target, lambda: import_target(candidate.target))


def _overrule(source: Source, active: dict[str, Source]) -> Source:
    candidate = source.candidate
    if candidate.name not in active or candidate.status:
        return source
    hint = f"use '{candidate.distribution}:{candidate.name}'"
    reason = "the name is registered at run time"
    shadowed = candidate._replace(status="shadowed", reason=reason, hint=hint)
    return source._replace(candidate=shadowed)


def _inform(source: Source) -> BackendInfo:
    """Describe what may be used as far as that needs no import of a plugin."""
    candidate = source.candidate
    if candidate.status:
        return _as_info(candidate)
    backend = get_made(source.key)
    if backend is None and candidate.origin == "built-in":
        return _load_and_inform(source)
    if backend is None:
        return _as_info(candidate._replace(status="not loaded"))
    available = ask_availability(backend)
    status = "ok" if available.ok else "unavailable"
    told = candidate._replace(status=status, reason=available.reason, hint=available.hint)
    return _as_info(told, backend.capabilities)


def _load_and_inform(source: Source) -> BackendInfo:
    try:
        load_source(source)
    except _ERRORS as error:
        return _as_info(source.candidate._replace(status="broken", reason=str(error)))
    return _inform(source)


def _as_info(candidate: Candidate, capabilities: Capabilities | None = None) -> BackendInfo:
    return BackendInfo(
        name=candidate.name,
        origin=candidate.origin,
        distribution=candidate.distribution,
        version=candidate.version,
        target=candidate.target,
        status=candidate.status,
        reason=candidate.reason,
        hint=candidate.hint,
        capabilities=capabilities,
    )
