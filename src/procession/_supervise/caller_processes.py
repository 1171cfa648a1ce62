"""Turns processes that the caller started itself into a launch, for `ProcessContext`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from typing import Any, cast

from procession.protocol import ErrorChannel, Launch, Process, Report, Started

_NEEDED = ("pid", "sentinel", "exitcode", "is_alive", "join", "terminate", "kill")


class ErrorFile:
    """An `ErrorChannel` over the file into which torch's `_wrap` pickles the traceback of a process.

    It has no descriptor to wait on: the supervisor reads it once the process has ended.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def receive(self) -> Report | None:
        """Return the report.

        Raises:
            EOFError: the process left no report.
        """
        try:
            with open(self._path, "rb") as file:
                text = _StrUnpickler(file).load()
        except (OSError, pickle.UnpicklingError, EOFError):
            raise EOFError("no error file") from None
        lines = str(text).rstrip().splitlines() or [""]
        kind, _, message = lines[-1].partition(": ")
        return Report("raised", type_name=kind, message=message, text=str(text))

    def close(self) -> None:
        """Do nothing: the file belongs to the caller."""


class _StrUnpickler(pickle.Unpickler):
    """Refuses to load any class or function, so that the file cannot run code here."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"an error file holds text, not {module}.{name}")


def adopt(processes: Sequence[Any], error_files: Sequence[Any]) -> tuple[Launch, Started]:
    """Return a launch of running processes, and its handles.

    Raises:
        TypeError: an object lacks an attribute of a process.
        ValueError: the numbers of processes and error files differ.
    """
    given = list(processes)
    for index, process in enumerate(given):
        missing = [name for name in _NEEDED if not hasattr(process, name)]
        if missing:
            raise TypeError(f"processes[{index}] has no {', '.join(missing)}: {process!r}")
    files = list(error_files)
    if len(files) != len(given):
        raise ValueError(f"there are {len(given)} processes, and {len(files)} error_files")
    launch = Launch(
        _do_nothing,
        (),
        len(given),
        "processes",
        daemon=any(getattr(process, "daemon", False) for process in given),
        allow_early_exit=True,
        wants_results=False,
    )
    owned: list[Process] = given
    return launch, Started(owned, [process.sentinel for process in given], list(map(_open, files)))


def _open(file: Any) -> ErrorChannel:
    return cast("ErrorChannel", file if hasattr(file, "receive") else ErrorFile(file))


def _do_nothing() -> None:
    """Stand in for the function of the processes, which is unknown here."""
