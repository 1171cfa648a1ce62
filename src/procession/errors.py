"""The exceptions of the registry and of bad input, all picklable, each with structured fields.

Of all of them ``because`` names what outside the call led to it, such as an environment variable.

    ValueError
     └─ UnknownBackendError       no start method of that name
    ImportError
     └─ BackendLoadError          its entry point cannot be imported
    TypeError
     └─ InvalidBackendError       it is there, but it is no backend
    RuntimeError
     ├─ BackendUnavailableError   it cannot be used on this machine
     ├─ AmbiguousBackendError     two distributions claim the name
     ├─ IncompatibleBackendError  it speaks another version of the protocol
     └─ StartError                its engine did not bring up all ranks

What a failed launch raises is in `procession.exceptions`.
"""

from __future__ import annotations

from typing import Any


class _Fields:
    """Pickles an exception by its keyword fields; the subclass composes the message from them."""

    _fields: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._values())

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields}

    def explained(self, because: str) -> Any:
        """Return a copy whose ``because``, and so its message, names one more cause."""
        both = " ".join(filter(None, (getattr(self, "because", ""), because)))
        return _rebuild(type(self), {**self._values(), "because": both})


def _rebuild(cls: type[Any], fields: dict[str, Any]) -> Any:
    return cls(**fields)


def _with_cause(text: str, because: str) -> str:
    return f"{text}. {because}" if because else text


class UnknownBackendError(_Fields, ValueError):
    """Raised when no start method has the name that was asked for."""

    _fields = ("name", "known", "suggestion", "install", "broken", "because")

    def __init__(
        self,
        name: str,
        *,
        known: tuple[str, ...] = (),
        suggestion: str | None = None,
        install: str | None = None,
        broken: tuple[tuple[str, str], ...] = (),
        because: str = "",
    ) -> None:
        self.name = name
        self.known = known
        self.suggestion = suggestion
        self.install = install
        self.broken = broken
        self.because = because
        guess = f" (did you mean {suggestion!r}?)" if suggestion else ""
        text = f"cannot find start method {name!r}{guess}; known: {', '.join(known)}"
        if install:
            text += f". It comes with: pip install {install}"
        for candidate, reason in broken:
            text += f". {candidate} could not be read: {reason}"
        super().__init__(_with_cause(text, because))


class BackendLoadError(_Fields, ImportError):
    """Raised when the entry point of a start method cannot be imported; ``__cause__`` says why."""

    _fields = ("backend", "origin", "reason", "because")

    def __init__(self, backend: str, *, origin: str, reason: str, because: str = "") -> None:
        self.backend = backend
        self.origin = origin
        self.reason = reason
        self.because = because
        text = f"start method {backend!r} ({origin}) cannot be imported: {reason}"
        super().__init__(_with_cause(text, because))


class InvalidBackendError(_Fields, TypeError):
    """Raised when an object that should be a backend lacks a part of the protocol."""

    _fields = ("backend", "origin", "problems", "because")

    def __init__(
        self, backend: str, *, origin: str, problems: tuple[str, ...], because: str = ""
    ) -> None:
        self.backend = backend
        self.origin = origin
        self.problems = problems
        self.because = because
        text = f"start method {backend!r} ({origin}) is no backend: {'; '.join(problems)}"
        super().__init__(_with_cause(text, because))


class BackendUnavailableError(_Fields, RuntimeError):
    """Raised when a start method exists but cannot be used on this machine."""

    _fields = ("backend", "reason", "hint", "because")

    def __init__(self, backend: str, *, reason: str, hint: str = "", because: str = "") -> None:
        self.backend = backend
        self.reason = reason
        self.hint = hint
        self.because = because
        text = f"start method {backend!r} cannot be used here: {reason}"
        super().__init__(_with_cause(f"{text} ({hint})" if hint else text, because))


class AmbiguousBackendError(_Fields, RuntimeError):
    """Raised when several distributions claim the name that was asked for."""

    _fields = ("name", "candidates", "because")

    def __init__(
        self, name: str, *, candidates: tuple[tuple[str, str], ...], because: str = ""
    ) -> None:
        self.name = name
        self.candidates = candidates
        self.because = because
        claims = ", ".join(f"{dist} ({target})" for dist, target in candidates)
        ways = " or ".join(repr(f"{dist}:{name}") for dist, _ in candidates)
        text = f"several distributions provide start method {name!r}: {claims}; use {ways}"
        super().__init__(_with_cause(text, because))


class IncompatibleBackendError(_Fields, RuntimeError):
    """Raised when a backend was written for a version of the protocol that is not supported."""

    _fields = ("backend", "origin", "version", "supported", "because")

    def __init__(
        self,
        backend: str,
        *,
        origin: str,
        version: int,
        supported: tuple[int, ...],
        because: str = "",
    ) -> None:
        self.backend = backend
        self.origin = origin
        self.version = version
        self.supported = supported
        self.because = because
        wanted = " and ".join(map(str, supported))
        text = (
            f"start method {backend!r} ({origin}) speaks version {version} of the backend protocol,"
            f" this procession speaks {wanted}; install matching versions of the two"
        )
        super().__init__(_with_cause(text, because))


class StartError(_Fields, RuntimeError):
    """Raised when an engine did not bring up all ranks of a launch; those that had come were ended.

    ``nprocs`` were asked for, ``came`` had come, or ``slots`` are all there is (None: unknown).
    """

    _fields = ("backend", "nprocs", "came", "slots", "reason", "because")

    def __init__(
        self,
        backend: str,
        *,
        nprocs: int,
        reason: str,
        came: int = 0,
        slots: int | None = None,
        because: str = "",
    ) -> None:
        self.backend = backend
        self.nprocs = nprocs
        self.came = came
        self.slots = slots
        self.reason = reason
        self.because = because
        there = f"{came} have come" if slots is None else f"there are {slots} slots"
        text = f"start method {backend!r} cannot start {nprocs} ranks ({there}): {reason}"
        super().__init__(_with_cause(text, because))
