"""Explains why a part of a call cannot reach ranks, or does not load in one, and how to fix that."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from procession._python.main_module import MAIN_NAMES
from procession.exceptions import note_on

CLOUDPICKLE = "install cloudpickle (pip install cloudpickle)"
FORK = "use start_method='fork'"


def advise(part: Any, culprit: Any, error: Exception) -> str:
    """Return why ``part`` of a call cannot be pickled, because of ``culprit`` in it, and how to fix that."""
    reason = _explain(culprit, error)
    if culprit is part or culprit is None:
        return reason
    return f"it holds {_describe(culprit)}; {reason}"


def _explain(culprit: Any, error: Exception) -> str:
    if isinstance(culprit, (FunctionType, type)):
        return _explain_name(culprit)
    if isinstance(culprit, ModuleType):
        return f"a module is not data: import it in fn, {CLOUDPICKLE}, or {FORK}"
    text = str(error).replace("n't", "not").lower()
    if "cannot pickle" in text or "cannot serialize" in text or "should only be shared" in text:
        kind = type(culprit).__name__ if culprit is not None else "such an object"
        return f"{kind} belongs to one process: create it in the ranks, in fn, or {FORK}"
    return f"pickling it raised {type(error).__name__}: fix that, leave it out, or {FORK}"


def _explain_name(culprit: Any) -> str:
    """Return why ranks cannot import a function or class by its name."""
    name, home = culprit.__qualname__, culprit.__module__
    if "<" in name:
        kind = "a lambda" if name.endswith("<lambda>") else "defined inside a function"
        return f"it is {kind}: define it at the top of a module, {CLOUDPICKLE}, or {FORK}"
    if home not in sys.modules:
        return (
            f"its module {home!r} is not in sys.modules, so ranks cannot import it: add it there "
            f"(and its folder to sys.path), {CLOUDPICKLE}, or {FORK}"
        )
    found: Any = sys.modules[home]
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not None:
        return (
            f"{home}.{name} is now another object, because a decorator or a reload replaced it: give "
            f"each its own name, {CLOUDPICKLE}, or {FORK}"
        )
    if home in MAIN_NAMES:
        runner = getattr(sys.modules[home], "__file__", None) or "something without a file"
        return (
            f"sys.modules['__main__'] has no {name!r}: it is {runner}, which runs your code without a "
            f"file; define it in a module, {CLOUDPICKLE}, or {FORK}"
        )
    return (
        f"module {home!r} has no {name!r}: define it at the top of the module, under that name, "
        f"{CLOUDPICKLE}, or {FORK}"
    )


def _describe(culprit: Any) -> str:
    if isinstance(culprit, (FunctionType, type)):
        return f"{culprit.__module__}.{culprit.__qualname__}"
    return f"an object of type {type(culprit).__module__}.{type(culprit).__qualname__}"


def note_missing(error: Exception) -> None:
    """Add a note about what is missing to an error of unpickling in a rank, unless user code raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = str(trace.tb_frame.f_globals.get("__package__")) if trace is not None else ""
    if package.partition(".")[0] != "procession":
        return
    if isinstance(error, ModuleNotFoundError):
        note_on(
            error,
            f"ranks cannot import {error.name!r}, which fn or args need: the launching process made it at "
            "run time, or imported it without sys.path. Add its folder to sys.path (or PYTHONPATH) before "
            f"the launch, or {FORK}",
        )
    elif isinstance(error, AttributeError) and "__mp_main__" in str(error):
        note_on(
            error,
            "ranks import your script under another name, and then it does not define this: what is under "
            "`if __name__ == '__main__':` exists only in the launching process. Define it at the top level "
            f"of the script, or {FORK}",
        )
    elif isinstance(error, AttributeError):
        note_on(
            error,
            "ranks import the module again, and it does not define this: it was added at run time, or the "
            f"file has changed since. Define it at the top level of the module, or {FORK}",
        )
