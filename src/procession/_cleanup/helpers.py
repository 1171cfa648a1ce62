"""Ends the processes that a rank has started for itself, its reaper and forkservers, before it exits.

Otherwise they would end a moment later, as orphans: process 1 of a container, or whoever else adopts
orphans (PR_SET_CHILD_SUBREAPER), would have to reap those of every rank, and mostly does not.  The first
caller does not wait for its own: that would cost each script a millisecond or more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from procession._python.imported import get_if_imported

_owner = 0  # the process that ends its helpers at its exit
_ends: list[Callable[[], None]] = []


def end_at_exit(end: Callable[[], None], *, first: bool = False) -> None:
    """Have ``end`` called when this process exits, after its launches, if it is a rank or a child.

    Args:
        end: ends one kind of helper; may be given again.
        first: call it before the others.
    """
    global _owner
    if not _is_child():
        return
    if _owner != os.getpid():
        _owner = os.getpid()
        _ends.clear()
        _register()
    if end not in _ends:
        _ends.insert(0 if first else len(_ends), end)


def _register() -> None:
    import atexit

    atexit.register(_end)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # in multiprocessing's children no other handlers run
        util.Finalize(None, _end, exitpriority=50)  # launches end at 100


def _is_child() -> bool:
    """Whether this process is a rank, or a child of multiprocessing's."""
    parent_process = get_if_imported("multiprocessing.process", "parent_process")
    return get_if_imported("procession._rank.life", "current") is not None or bool(
        parent_process is not None and parent_process()
    )


def _end() -> None:
    if _owner == os.getpid():
        for end in _ends:
            end()
