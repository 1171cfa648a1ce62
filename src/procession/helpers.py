"""Ends the processes that this one has started for itself, the warden and forkservers, before it exits.

Otherwise they would end a moment later, as orphans: process 1 of a container, or whoever else adopts
orphans (PR_SET_CHILD_SUBREAPER), would have to reap them, and mostly does not.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from procession.loaded import get_loaded

_PATIENCE = 0.2  # seconds for a forkserver to end by itself: a rank that failed has hardly more

_owner = 0  # the process that ends them at its exit


def end_at_exit() -> None:
    """Have `end` called when this process exits, after its launches have ended."""
    global _owner
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    import atexit

    atexit.register(_end)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # in multiprocessing's children no other handlers run
        util.Finalize(None, _end, exitpriority=50)  # launches end at 100


def _end() -> None:
    if _owner == os.getpid():
        stop_servers = get_loaded("procession.forkservers", "stop_servers")
        if stop_servers is not None:
            stop_servers(_PATIENCE)
        end_warden = get_loaded("procession.lifeline", "end")
        if end_warden is not None:
            end_warden()
