"""Ends the processes that a rank has started for itself, its warden and forkservers, before it exits.

Otherwise they would end a moment later, as orphans: process 1 of a container, or whoever else adopts
orphans (PR_SET_CHILD_SUBREAPER), would have to reap those of every rank, and mostly does not.  The first
caller does not wait for its own: that would cost each script a millisecond or more.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from procession._python.imported import get_loaded

_PATIENCE = 0.2  # seconds for a forkserver to end by itself: a rank that failed has hardly more

_owner = 0  # the process that ends them at its exit


def end_at_exit() -> None:
    """Have `_end` called when this process exits, after its launches, if it is a rank or a child."""
    global _owner
    if _owner == os.getpid() or not _is_child():
        return
    _owner = os.getpid()
    import atexit

    atexit.register(_end)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # in multiprocessing's children no other handlers run
        util.Finalize(None, _end, exitpriority=50)  # launches end at 100


def _is_child() -> bool:
    """Whether this process is a rank, or a child of multiprocessing's."""
    parent_process = get_loaded("multiprocessing.process", "parent_process")
    return get_loaded("procession._rank.life", "current") is not None or bool(
        parent_process is not None and parent_process()
    )


def _end() -> None:
    if _owner == os.getpid():
        stop_servers = get_loaded("procession._forkserver.client", "stop_servers")
        if stop_servers is not None:
            stop_servers(_PATIENCE)
        end_warden = get_loaded("procession._cleanup.reaper_client", "end")
        if end_warden is not None:
            end_warden()
