"""Finds the backend for a start method.

Built-in names resolve without importing the rest of this package, which would take a third of the time that
a script's first launch spends on imports.
"""

from __future__ import annotations

import os

from procession._python.log import debug
from procession._registry.builtin import BUILT_IN, get_built_in, replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.protocol import Availability, Backend

DEFAULT = "PROCESSION_START_METHOD"


def get_backend(start_method: str | Backend | None = None) -> Backend:
    """Return the backend of a start method, ready to use here.

    Args:
        start_method: a name; or ``distribution:name``, if several distributions provide that name; or a
            backend; or None, for the name in PROCESSION_START_METHOD or else multiprocessing's default.

    Raises:
        TypeError: it is neither a name nor a backend.
        UnknownBackendError: there is no such start method.
        AmbiguousBackendError: several distributions provide it.
        BackendLoadError: it cannot be imported.
        InvalidBackendError: it is not a backend.
        IncompatibleBackendError: it was written for another version of the protocol.
        BackendUnavailableError: it cannot be used on this machine.
    """
    if start_method is None:
        return _get_default()
    if not isinstance(start_method, str):
        return _check_object(start_method)
    if start_method in BUILT_IN and start_method not in replaced:
        backend = get_built_in(start_method)
        available = backend.availability()
    else:  # a registered name, an entry point, or UnknownBackendError
        from procession._registry.registration import find_source, load_source
        from procession._registry.validation import ask_availability

        backend = load_source(find_source(start_method))
        available = ask_availability(backend)
    _check_available(start_method, available)
    debug("start method %r is %s", start_method, type(backend).__qualname__)
    return backend


def _get_default() -> Backend:
    name = os.environ.get(DEFAULT)
    if name is None:
        from multiprocessing import get_context

        return get_backend(get_context(None).get_start_method())
    from procession.exceptions import Explained

    try:
        return get_backend(name)
    except Explained as error:
        raise error.explained(f"{DEFAULT}={name!r} asked for it") from error.__cause__


def _check_object(backend: Backend) -> Backend:
    if not hasattr(backend, "start"):
        raise TypeError(f"start_method must be a name or a backend, not {backend!r}")
    from procession._registry.validation import ask_availability, validate

    name = str(getattr(backend, "name", backend))
    validate(backend, name=name, origin="passed as start_method")
    _check_available(name, ask_availability(backend))
    return backend


def _check_available(name: str, available: Availability) -> None:
    if not available.ok:
        from procession.exceptions import BackendUnavailableError

        raise BackendUnavailableError(name, reason=available.reason, hint=available.hint)
