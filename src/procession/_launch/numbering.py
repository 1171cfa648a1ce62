"""Numbers the processes that a caller starts; like multiprocessing's, the count never restarts."""

from __future__ import annotations

import itertools
import os
from typing import Any

from procession._python.defer_signals import defer_sigint
from procession._python.imported import get_if_imported
from procession._python.unpatched import RLock

_lock = RLock()
_next = 1
_owner = 0  # the pid of the process that these numbers belong to; a fork starts at 1


def identify_ranks(nprocs: int) -> tuple[int, ...]:
    """Return multiprocessing's identity for rank 0 of a new launch.

    The last number of it counts up by rank.
    """
    global _lock, _next, _owner
    if _owner != os.getpid():
        _owner, _next, _lock = os.getpid(), 1, RLock()
    # deferred: an interrupt at the entry or exit of a with block may leave its lock held
    with defer_sigint(), _lock:
        first = max(_next, _draw(nprocs))
        _next = first + nprocs
    current_process = get_if_imported("multiprocessing.process", "current_process")
    own = current_process()._identity if current_process is not None else ()
    return (*own, first)


def _draw(count: int) -> int:
    """Take numbers from multiprocessing's counter; return the first, or 0 if it has not been imported."""
    process: Any = get_if_imported("multiprocessing", "process")
    if process is None:
        return 0
    first = max(next(process._process_counter), _next)
    process._process_counter = itertools.count(first + count)
    return int(first)
