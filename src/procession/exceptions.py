"""Every exception that procession raises; all can be pickled.

A failed launch raises these, with torch 2.13's constructor arguments, attributes and messages:

    Exception
     └─ ProcessException
         ├─ ProcessRaisedException   a rank's function, or what led up to it, raised
         ├─ ProcessExitedException   a rank's process ended by a signal, an exit code, or was lost
         └─ ProcessTimeoutError      the launch's deadline passed (also a TimeoutError)

The exception's notes hold what torch does not report: other failures, evidence.  Python 3.10 prints no notes,
so there they come before the message in the exception's string.  The registry and start methods raise:

    ValueError
     └─ UnknownBackendError          no start method has that name
    ImportError
     └─ BackendLoadError             its entry point cannot be imported
    TypeError
     └─ InvalidBackendError          the object is not a backend
    RuntimeError
     ├─ BackendUnavailableError      it cannot be used on this machine
     ├─ AmbiguousBackendError        several distributions provide the name
     ├─ IncompatibleBackendError     it was written for another version of the protocol
     ├─ StartError                   its engine did not start all ranks
     ├─ UnsafeForkError              a fork of this process is certain to break something
     └─ ResultError                  a rank left no return value
    RuntimeWarning
     └─ UnsafeForkWarning            a fork of this process is likely to break something
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # a rank that imports the caller's main module imports this module, too
    from collections.abc import Iterable, Sequence
    from typing import Any

    from procession.failure import Failure


class ProcessException(Exception):
    """Base class of the exceptions of a failed launch.

    Attributes:
        msg: the message, as torch words it.
        error_index: the rank that is the root cause.
        error_pid: its process id.
        failures: the `Failure` of each rank that failed or was stopped, the root cause first.
        host: the host of that rank, None for this machine.
    """

    def __init__(
        self,
        msg: str,
        error_index: int,
        error_pid: int | None,
        *,
        failures: Iterable[Failure] = (),
        host: str | None = None,
    ) -> None:
        super().__init__(msg)
        self.msg = msg
        self.error_index = error_index
        self.error_pid = error_pid
        self.failures: tuple[Failure, ...] = tuple(failures)
        self.host = host

    def as_group(self, *, load: bool = False) -> Any:
        """Return an ExceptionGroup of one exception for each rank that failed, or was stopped if none failed.

        Args:
            load: rebuild the exception objects that ranks raised, where possible.  This unpickles data that
                the ranks sent.

        Raises:
            RuntimeError: on Python 3.10, if the package exceptiongroup is not installed.
        """
        return make_group(self, load=load)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments(), self.__dict__

    def _arguments(self) -> tuple[Any, ...]:
        return self.msg, self.error_index, self.error_pid

    if sys.version_info < (3, 11):

        def add_note(self, note: str) -> None:
            """Add a note (PEP 678), which `str` shows."""
            self.__dict__.setdefault("__notes__", []).append(note)

        def __str__(self) -> str:
            notes = self.__dict__.get("__notes__", ())
            return "\n".join([*(f"\n{note}" for note in notes), super().__str__()])


class ProcessRaisedException(ProcessException):
    """Raised when a rank raised; the message holds the rank's traceback."""


class ProcessExitedException(ProcessException):
    """Raised when a rank's process ended by a signal, with an exit code or too early, or was lost.

    Attributes:
        exit_code: the exit code; -N for signal N; None if it is unknown.
        signal_name: the signal's name, None if no signal ended it.
    """

    def __init__(
        self,
        msg: str,
        error_index: int,
        error_pid: int | None,
        exit_code: int | None,
        signal_name: str | None = None,
        *,
        failures: Iterable[Failure] = (),
        host: str | None = None,
    ) -> None:
        super().__init__(msg, error_index, error_pid, failures=failures, host=host)
        self.exit_code = exit_code
        self.signal_name = signal_name

    def _arguments(self) -> tuple[Any, ...]:
        return self.msg, self.error_index, self.error_pid, self.exit_code, self.signal_name


class ProcessTimeoutError(ProcessException, TimeoutError):
    """Raised when the launch's ``timeout`` passed, after its ranks were stopped."""


class ResultError(RuntimeError):
    """Raised by `results` when a rank has no return value.

    Attributes:
        rank: the rank.
        reason: the reason, as text.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(rank, reason)
        self.rank = rank
        self.reason = reason

    def __str__(self) -> str:
        return f"rank {self.rank} left no return value: {self.reason}"


class UnsafeForkError(RuntimeError):
    """Raised when a fork of this process is certain to break something; no rank was started.

    Attributes:
        reasons: what the check found in this process, one sentence each.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons: tuple[str, ...] = tuple(reasons)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        found = "".join(f"\n - {reason}" for reason in self.reasons)
        return (
            f"start_method='fork' is not safe here:{found}\n"
            "Use start_method='spawn' or 'forkserver', or start the ranks before the first use of what is "
            "named above. options={'fork_check': 'warn'} makes this error a warning, 'off' skips the check."
        )


class UnsafeForkWarning(RuntimeWarning):
    """The warning category for forks of this process that are likely to break something."""


def note_on(error: BaseException, note: str) -> None:
    """Add a note to any exception; on Python 3.10, which shows no notes, append it to the message."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    elif isinstance(error, OSError) and error.strerror:
        error.strerror = f"{error.strerror} ({note})"
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
        if isinstance(error, ImportError):  # its string comes from this attribute
            error.msg = error.args[0]


class Explained(Exception):
    """An exception that is pickled by its keyword fields and can name one more cause (``because``)."""

    _fields: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._values())

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields}

    def explained(self, because: str) -> Any:
        """Return a copy whose message names one more cause."""
        causes = " ".join(filter(None, (getattr(self, "because", ""), because)))
        return _rebuild(type(self), {**self._values(), "because": causes})


def _rebuild(cls: type[Any], fields: dict[str, Any]) -> Any:
    return cls(**fields)


def _with_cause(text: str, because: str) -> str:
    return f"{text}. {because}" if because else text


class UnknownBackendError(Explained, ValueError):
    """Raised when no start method has the requested name."""

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
            text += (
                f". {install} provides it: pip install ./plugins/{install} in a clone of procession"
            )
        for candidate, reason in broken:
            text += f". {candidate} could not be read: {reason}"
        super().__init__(_with_cause(text, because))


class BackendLoadError(Explained, ImportError):
    """Raised when the entry point of a start method cannot be imported; ``__cause__`` says why."""

    _fields = ("backend", "origin", "reason", "because")

    def __init__(self, backend: str, *, origin: str, reason: str, because: str = "") -> None:
        self.backend = backend
        self.origin = origin
        self.reason = reason
        self.because = because
        text = f"start method {backend!r} ({origin}) cannot be imported: {reason}"
        super().__init__(_with_cause(text, because))


class InvalidBackendError(Explained, TypeError):
    """Raised when an object given as a backend lacks a part of the protocol."""

    _fields = ("backend", "origin", "problems", "because")

    def __init__(
        self, backend: str, *, origin: str, problems: tuple[str, ...], because: str = ""
    ) -> None:
        self.backend = backend
        self.origin = origin
        self.problems = problems
        self.because = because
        text = f"start method {backend!r} ({origin}) is not a backend: {'; '.join(problems)}"
        super().__init__(_with_cause(text, because))


class BackendUnavailableError(Explained, RuntimeError):
    """Raised when a start method exists but cannot be used on this machine."""

    _fields = ("backend", "reason", "hint", "because")

    def __init__(self, backend: str, *, reason: str, hint: str = "", because: str = "") -> None:
        self.backend = backend
        self.reason = reason
        self.hint = hint
        self.because = because
        text = f"start method {backend!r} cannot be used here: {reason}"
        super().__init__(_with_cause(f"{text} ({hint})" if hint else text, because))


class AmbiguousBackendError(Explained, RuntimeError):
    """Raised when several distributions provide the requested name."""

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


class IncompatibleBackendError(Explained, RuntimeError):
    """Raised when a backend was written for an unsupported version of the protocol."""

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
            f" this version of procession speaks {wanted}; install matching versions of the two"
        )
        super().__init__(_with_cause(text, because))


class StartError(Explained, RuntimeError):
    """Raised when an engine did not start all ranks of a launch, after those that it started were stopped.

    ``nprocs`` is the number of requested ranks, ``came`` the number whose agents arrived, ``slots`` the
    number of available slots (None: unknown).
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
        there = f"{came} have arrived" if slots is None else f"there are {slots} slots"
        text = f"start method {backend!r} cannot start {nprocs} ranks ({there}): {reason}"
        super().__init__(_with_cause(text, because))


def make_exception(failures: Sequence[Failure]) -> ProcessException:
    """Return the exception for these failures, in torch's words; the first is the root cause."""
    root, others = failures[0], failures[1:]
    common: Any = {"failures": failures, "host": root.host}
    error: ProcessException
    if root.kind == "raised":
        error = ProcessRaisedException(root.torch_message, root.rank, root.pid, **common)
    else:
        how = root.exit_code, root.signal_name
        error = ProcessExitedException(root.torch_message, root.rank, root.pid, *how, **common)
    for note in root.list_notes(others):
        error.add_note(note)
    return error


def make_group(error: ProcessException, *, load: bool) -> Any:
    """Return an ExceptionGroup of the failures; a BaseExceptionGroup if one of them requires it."""
    chosen = [one for one in error.failures if not one.collateral] or list(error.failures)
    singles = [_make_single(one, load=load) for one in chosen] or [error]
    return _base_group()(f"{len(singles)} of the launch's ranks failed", singles)


def _make_single(failure: Failure, *, load: bool) -> BaseException:
    loaded = failure.load_exception() if load else None
    if loaded is None:
        return make_exception([failure])
    note_on(loaded, f"raised in rank {failure.rank} (pid {failure.pid}):\n{failure.traceback}")
    return loaded


def _base_group() -> Any:
    from importlib import import_module

    module = "builtins" if sys.version_info >= (3, 11) else "exceptiongroup"
    try:
        return import_module(module).BaseExceptionGroup
    except ImportError:
        text = "exception groups came with Python 3.11: pip install exceptiongroup"
        raise RuntimeError(text) from None
