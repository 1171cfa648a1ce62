"""Numbers the processes that a caller starts, as multiprocessing does: through its whole life."""

from __future__ import annotations

import itertools
import os
from typing import Any

from procession._python.defer_signals import defer_sigint
from procession._python.imported import get_if_imported
from procession._python.unpatched import RLock

_lock = RLock()
_next = 1
_owner = 0  # the process that has counted so far


def identify_ranks(nprocs: int) -> tuple[int, ...]:
    """Return multiprocessing's identity of rank 0 of a new launch; the last number counts on by rank."""
    global _lock, _next, _owner
    if _owner != os.getpid():
        _owner, _next, _lock = os.getpid(), 1, RLock()
    with (
        defer_sigint(),
        _lock,
    ):  # an interrupt between the two ends of a block may leave a lock held
        first = max(_next, _draw(nprocs))
        _next = first + nprocs
    current_process = get_if_imported("multiprocessing.process", "current_process")
    own = current_process()._identity if current_process is not None else ()
    return (*own, first)


def _draw(count: int) -> int:
    """Take numbers from multiprocessing's counter; return the first, or 0 where it has not been imported."""
    process: Any = get_if_imported("multiprocessing", "process")
    if process is None:
        return 0
    first = max(next(process._process_counter), _next)
    process._process_counter = itertools.count(first + count)
    return int(first)
