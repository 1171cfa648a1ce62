"""Judge how a launcher handled a fault; side_by_side.py describes the rules."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

from procession.testing.cases import Case

LATE = 10.0
"""Seconds after which an answer is late."""

CLEAN, SILENT, HANG, LOST, WRONG, TARDY, LEFT, NOT_APPLICABLE = VERDICTS = (
    "clean",
    "silent success",
    "hang",
    "cause lost",
    "wrong error",
    "late",
    "left behind",
    "n/a",
)
_DEATHS = {
    "ProcessExitedException",  # procession, torch
    "ChildFailedError",  # torch elastic
    "BrokenProcessPool",  # concurrent.futures, loky
    "TerminatedWorkerError",  # loky
}
"""Errors that say only that a process ended."""

_SECONDARY = (
    "secondary"  # what a victim of rank 1 raises (procession.testing.bystanders.follow_soon)
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # mpire's tracebacks have colours
_EXCERPT = 2000


@dataclass
class Run:
    """The result of one fault under one peer."""

    peer: str
    case: str
    verdict: str = ""
    seconds: float | None = None
    """Seconds from the fault, or from the call if no rank came to the fault, until the call ended."""
    known: float | None = None
    """Seconds until the peer had the error, if it says so before the call ends."""
    exit_seconds: float | None = None
    """Seconds from the end of the call until the caller exited."""
    left: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    shared_memory: list[str] = field(default_factory=list)
    said: str = ""


def explain(error: BaseException) -> str:
    """Return all that an exception says: its text, notes, exit code or signal, members and causes."""
    return _COLOUR.sub("", "\n".join(dict.fromkeys(_tell(error, set()))))


def _tell(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield "".join(traceback.format_exception_only(type(error), error)).rstrip()
    for name in ("exit_code", "signal_name"):
        if (value := vars(error).get(name)) is not None:
            yield f"{name}: {value!r}"
    for rank_state in getattr(error, "exceptions", ()):
        yield from _tell(rank_state, seen)
    yield from _tell(error.__cause__, seen)
    if not error.__suppress_context__:
        yield from _tell(error.__context__, seen)


def shorten(text: str) -> str:
    """Return the beginning and the end of a text."""
    return text if len(text) <= 2 * _EXCERPT else f"{text[:_EXCERPT]} [...] {text[-_EXCERPT:]}"


def judge_error(case: Case, name: str, error: BaseException | None, text: str) -> str:
    """Return the verdict on the exception of a call, apart from its time and from what it left."""
    if case.outcome == "ok":
        well = error is None or (isinstance(error, SystemExit) and not error.code)
        return CLEAN if well else WRONG
    if error is None:
        return SILENT
    if _is_right(case, name, text):
        return CLEAN
    blames_victim = _SECONDARY in text
    died = type(error).__name__ in _DEATHS or "died unexpectedly" in text
    return LOST if died and not blames_victim else WRONG


def _is_right(case: Case, name: str, text: str) -> bool:
    owed = "" if name == "_exit 0" else case.text  # that text is procession's own wording
    if owed:
        found = re.search(rf"(?<!\d){re.escape(owed)}", text)
        return found is not None and _SECONDARY not in text[: found.start()]
    return _names_ending(case, text)


def _names_ending(case: Case, text: str) -> bool:
    code = case.code or 0
    if case.signal_name and case.signal_name in text:
        return True
    pattern = rf"(code|exit|status)\W{{0,9}}{code}\b" if code >= 0 else rf"(-|signal ){-code}\b"
    return re.search(pattern, text, re.IGNORECASE) is not None


def judge(run: Run, about_error: str) -> str:
    """Return the verdict on a run that ended: the gravest that applies."""
    if about_error != CLEAN:
        return about_error
    if run.seconds is None or run.seconds >= LATE:
        return TARDY
    return LEFT if run.left else CLEAN
