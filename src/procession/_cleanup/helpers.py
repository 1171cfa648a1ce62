"""Ends the helper processes that a rank has started, its reaper and forkservers, before the rank exits.

Otherwise they would end a moment later, as orphans.  Process 1 of a container, or another process that adopts
orphans (PR_SET_CHILD_SUBREAPER), would have to reap those of every rank, and usually does not.  The first
caller does not wait for its helpers: that would cost each script a millisecond or more.
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
    """Call ``end`` when this process exits, after its launches, if it is a rank or a child.

    Args:
        end: ends one kind of helper; a second call with it does nothing.
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
    if util is not None:  # multiprocessing's children run no other handlers
        util.Finalize(None, _end, exitpriority=50)  # after the launches, which end at priority 100


def _is_child() -> bool:
    """Return whether this process is a rank, or a child of multiprocessing."""
    parent_process = get_if_imported("multiprocessing.process", "parent_process")
    return get_if_imported("procession._rank.life", "current") is not None or bool(
        parent_process is not None and parent_process()
    )


def _end() -> None:
    if _owner == os.getpid():
        for end in _ends:
            end()
