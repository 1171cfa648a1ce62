"""Says why something does not reach ranks, or does not load in one, and what the ways out are."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from procession._python.main_module import MAIN_NAMES
from procession.exceptions import note_on

CLOUDPICKLE = "install cloudpickle (pip install 'procession[cloudpickle]')"
FORK = "use start_method='fork'"


def advise(part: Any, culprit: Any, error: Exception) -> str:
    """Return why a part of a call cannot be pickled, because of ``culprit`` in it, and the ways out."""
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
        return f"{kind} belongs to one process: make it in the ranks, in fn, or {FORK}"
    return f"to pickle it raised {type(error).__name__}: mend that, leave it out, or {FORK}"


def _explain_name(culprit: Any) -> str:
    """Say why a function or class has no name that ranks could import."""
    name, home = culprit.__qualname__, culprit.__module__
    if "<" in name:
        kind = "a lambda" if name.endswith("<lambda>") else "defined inside a function"
        return f"it is {kind}: define it at the top of a module, {CLOUDPICKLE}, or {FORK}"
    if home not in sys.modules:
        return (
            f"its module {home!r} is not in sys.modules, so that ranks cannot import it: put it there "
            f"(and its folder on sys.path), {CLOUDPICKLE}, or {FORK}"
        )
    found: Any = sys.modules[home]
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not None:
        return (
            f"{home}.{name} is another object by now, replaced by a decorator or a reload: give each a "
            f"name of its own, {CLOUDPICKLE}, or {FORK}"
        )
    if home in MAIN_NAMES:
        runner = getattr(sys.modules[home], "__file__", None) or "something without a file"
        return (
            f"sys.modules['__main__'] lacks {name!r}: it is {runner}, which runs code of yours that comes "
            f"from no file; define it in a module, {CLOUDPICKLE}, or {FORK}"
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
    """Note on an error of a rank that unpickles what the rank lacks, unless user code raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals.get("__package__") != "procession":
        return
    if isinstance(error, ModuleNotFoundError):
        note_on(
            error,
            f"ranks cannot import {error.name!r}, which fn or args need: in the launching process it was "
            "imported otherwise than by sys.path, or made at run time. Put its folder on sys.path (or "
            f"PYTHONPATH) before the launch, or {FORK}",
        )
    elif isinstance(error, AttributeError) and "__mp_main__" in str(error):
        note_on(
            error,
            "ranks import your script under another name, where it does not define this: what is under "
            "`if __name__ == '__main__':` exists in the launching process alone. Define it at the top of "
            f"the script, or {FORK}",
        )
    elif isinstance(error, AttributeError):
        note_on(
            error,
            "ranks import the module anew, and it does not define this: it was added at run time, or its "
            f"file has changed since. Define it at the top of the module, or {FORK}",
        )
