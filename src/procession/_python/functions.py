"""Finds the function inside what a caller passes as one."""

from __future__ import annotations

from procession._python.imported import get_if_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def unwrap(fn: Any) -> tuple[Any, list[Any]]:
    """Return the function inside partials and `CallPerRank`, and the keyword arguments on the way to it.

    Other objects may have an attribute ``func``, too, and any value in it.
    """
    partial = get_if_imported("functools", "partial")
    values: list[Any] = []
    while True:
        kind = type(fn)
        if partial is not None and issubclass(kind, partial):
            values += fn.keywords.values()
        elif kind.__name__ != "CallPerRank" or not kind.__module__.startswith("procession."):
            return fn, values
        fn = fn.func
