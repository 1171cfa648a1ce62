"""Checks whether an object is a backend, by its attributes and their signatures, not by its class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from inspect import iscoroutinefunction, signature
from typing import Any

from procession.exceptions import IncompatibleBackendError, InvalidBackendError
from procession.protocol import PROTOCOL_VERSION, Availability, Backend, Capabilities

SUPPORTED = tuple(version for version in (PROTOCOL_VERSION, PROTOCOL_VERSION - 1) if version > 0)
"""The versions of the protocol that a backend may speak."""

_MISSING = object()


def validate(candidate: Any, *, name: str, origin: str) -> Backend:
    """Return the candidate, typed as a backend.

    Raises:
        IncompatibleBackendError: it was written for another version of the protocol.
        InvalidBackendError: it lacks parts of the protocol; the error names all of them.
    """
    version = _get(candidate, "protocol_version")
    if _is_version(version) and version not in SUPPORTED:
        raise IncompatibleBackendError(name, origin=origin, version=version, supported=SUPPORTED)
    problems = tuple(_problems(candidate))
    if problems:
        raise InvalidBackendError(name, origin=origin, problems=problems)
    backend: Backend = candidate
    return backend


def ask_availability(backend: Backend) -> Availability:
    """Return the backend's own answer; a backend whose ``availability()`` fails counts as unavailable."""
    try:
        answer: Any = backend.availability()
    except Exception as error:
        return Availability(False, f"availability() raised {type(error).__name__}: {error}")
    if isinstance(answer, Availability):
        return answer
    return Availability(False, f"availability() returned {answer!r}, not an Availability")


def _problems(candidate: Any) -> Iterator[str]:
    if isinstance(candidate, type):
        yield f"it is the class {candidate.__qualname__}, not an instance of it"
        return
    yield from _check(candidate, "name", _is_name, "a non-empty str")
    yield from _check(candidate, "protocol_version", _is_version, "an int")
    yield from _check(candidate, "capabilities", _is_capabilities, "a procession.Capabilities")
    yield from _check(candidate, "options", _is_names, "a collection of str", optional=True)
    yield from _check_call(candidate, "start", "launch")
    yield from _check_call(candidate, "availability")
    yield from _check_call(candidate, "default_nprocs", "options", optional=True)


def _check(
    candidate: Any,
    attribute: str,
    accepts: Callable[[Any], bool],
    wanted: str,
    *,
    optional: bool = False,
) -> Iterator[str]:
    value = _get(candidate, attribute)
    if value is _MISSING:
        if not optional:
            yield f"it has no {attribute}, which must be {wanted}"
    elif not accepts(value):
        yield f"{attribute} must be {wanted}, not {value!r}"


def _check_call(
    candidate: Any, method: str, *arguments: str, optional: bool = False
) -> Iterator[str]:
    value = _get(candidate, method)
    call = f"{method}({', '.join(arguments)})"
    if value is _MISSING:
        if not optional:
            yield f"it has no {call}"
    elif not callable(value):
        yield f"{call} must be callable, not {value!r}"
    elif iscoroutinefunction(value):
        yield f"{call} must not be a coroutine function"
    elif not _takes(value, len(arguments)):
        yield f"{call} cannot be called with {len(arguments)} positional argument(s)"


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        found = signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return True
    try:
        found.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _get(candidate: Any, attribute: str) -> Any:
    try:
        return getattr(candidate, attribute, _MISSING)
    except Exception:  # a property may raise anything
        return _MISSING


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_version(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_capabilities(value: Any) -> bool:
    return isinstance(value, Capabilities)


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, Collection)
        and not isinstance(value, (str, bytes))
        and all(isinstance(each, str) for each in value)
    )
