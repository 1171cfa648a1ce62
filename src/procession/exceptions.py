"""What a failed launch raises: torch's exceptions, with every rank's failure on them.

    Exception
     └─ ProcessException
         ├─ ProcessRaisedException   a rank's function, or what led up to it, raised
         ├─ ProcessExitedException   a rank's process ended by a signal, an exit code, or was lost
         └─ ProcessTimeoutError      the launch's deadline passed (also a TimeoutError)
    RuntimeError
     ├─ ResultError                  a return value cannot be had
     └─ UnsafeForkError              a fork of this process is certain to break something
    RuntimeWarning
     └─ UnsafeForkWarning            a fork of this process is likely to break something

Constructor arguments, attributes and messages are those of torch 2.13's ``torch.multiprocessing``.
What torch does not tell (the other failures, the evidence) is in the notes of the exception, and
on Python 3.10, which prints no notes, ahead of the message in its string.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # ranks import what the launcher's main module does: these exceptions, for one
    from collections.abc import Iterable
    from typing import Any

    from procession.failure import Failure


class ProcessException(Exception):
    """Base of what a failed launch raises.

    Attributes:
        msg: the message, as torch words it.
        error_index: the rank that is the root cause.
        error_pid: its process id.
        failures: every rank's `Failure`, the root cause first.
        host: where the root cause ran, None for this machine.
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
        """Return all failures as an ExceptionGroup, for ``except*``: one exception a failed rank.

        Ranks that the launcher itself stopped are left out, unless there are no others.

        Args:
            load: rebuild the exception objects that ranks raised, where that can be done.  This
                unpickles data that the ranks sent.

        Raises:
            RuntimeError: Python 3.10, and the package exceptiongroup is not installed.
        """
        from procession._supervise.verdict import make_group

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
    """Raised when a rank's process ended by a signal, with an exit code, or too early.

    Attributes:
        exit_code: the exit code; -N for signal N; None where it is unknown.
        signal_name: the signal's name, None where no signal ended it.
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
    """Raised when the launch's ``timeout`` passed; its ranks have been stopped."""


class ResultError(RuntimeError):
    """Raised when a rank's return value cannot be had.

    Attributes:
        rank: the rank.
        reason: why, as text.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(rank, reason)
        self.rank = rank
        self.reason = reason

    def __str__(self) -> str:
        return f"rank {self.rank} left no return value: {self.reason}"


class UnsafeForkError(RuntimeError):
    """Raised when a fork of this process is certain to break something; nothing was started.

    Attributes:
        reasons: what was found in this process, one sentence each.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons: tuple[str, ...] = tuple(reasons)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        found = "".join(f"\n - {reason}" for reason in self.reasons)
        return (
            f"start_method='fork' is not safe here:{found}\n"
            "Use start_method='spawn' or 'forkserver', or start the ranks before the first use of what is "
            "named above. options={'fork_check': 'warn'} makes an error a warning, 'off' checks nothing."
        )


class UnsafeForkWarning(RuntimeWarning):
    """The category of warnings that a fork of this process is likely to break something."""


def note_on(error: BaseException, note: str) -> None:
    """Add a note to any exception; on Python 3.10 put it into the message, which is all it shows."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    elif isinstance(error, OSError) and error.strerror:
        error.strerror = f"{error.strerror} ({note})"
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
        if isinstance(error, ImportError):  # whose string is another attribute
            error.msg = error.args[0]
