"""Lists all backends with their status; imports a plugin only on request."""

from __future__ import annotations

from typing import NamedTuple

from procession._registry.catalog import Candidate, add_version, list_candidates
from procession._registry.loading import get_made
from procession._registry.registration import (
    Source,
    active_sources,
    as_source,
    find_source,
    load_source,
)
from procession._registry.validation import ask_availability
from procession.exceptions import AmbiguousBackendError, Explained, UnknownBackendError
from procession.protocol import Capabilities


class BackendInfo(NamedTuple):
    """One entry of the list of backends.

    ``origin`` is ``runtime``, ``built-in``, ``first-party`` or ``third-party``.  ``status`` is ``ok``,
    ``unavailable`` (on this machine), ``not loaded`` (a plugin not imported yet), ``broken``, ``ambiguous``,
    ``shadowed`` (another backend takes precedence), ``not allowed`` (by PROCESSION_PLUGINS) or ``unknown``.
    ``capabilities`` is None if the backend is not loaded.
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


def list_backends() -> list[BackendInfo]:
    """Return all backends, without importing any plugin."""
    active = active_sources()
    others = [_overrule(as_source(each), active) for each in list_candidates()]
    return [_inform(source) for source in (*active.values(), *others)]


def check_backend(name: str, *, load: bool = True) -> BackendInfo:
    """Return the entry of one name, which may say what is wrong with its backend; import it if ``load``."""
    try:
        source = find_source(name)
    except UnknownBackendError as error:
        return BackendInfo(name, "", "", "", "", "unknown", str(error))
    except AmbiguousBackendError as error:
        return BackendInfo(name, "third-party", "", "", "", "ambiguous", str(error))
    source = source._replace(candidate=add_version(source.candidate))
    return _load_and_inform(source) if load else _inform(source)


def _overrule(source: Source, active: dict[str, Source]) -> Source:
    candidate = source.candidate
    if candidate.name not in active or candidate.status:
        return source
    hint = f"use '{candidate.distribution}:{candidate.name}'"
    reason = "the name is registered at run time"
    shadowed = candidate._replace(status="shadowed", reason=reason, hint=hint)
    return source._replace(candidate=shadowed)


def _inform(source: Source) -> BackendInfo:
    """Describe a backend, without importing a plugin."""
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
    judged = candidate._replace(status=status, reason=available.reason, hint=available.hint)
    return _as_info(judged, backend.capabilities)


def _load_and_inform(source: Source) -> BackendInfo:
    try:
        load_source(source)
    except Explained as error:
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
