"""Finds threads that Python did not start, such as OpenMP's pool, without which forked ranks hang."""

from __future__ import annotations

import os
import sys
from _thread import get_ident as _get_ident
from collections.abc import Iterator

from procession._python import unpatched

_TASKS = "/proc/self/task"
_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)  # seconds between scans, before a warning

_lasting = 0
"""How many foreign threads remained at the last launch; the next launch does not wait for them to end."""

_SURVIVING = ("ZMQbg/", "jemalloc_bg_thd")
"""Prefixes of the names of threads that are prepared for a fork, or that a rank does not miss."""

_POOL_SIZES = tuple(
    f"{prefix}openblas_get_num_threads{suffix}"
    for prefix in ("", "scipy_")
    for suffix in ("", "64_")
)


def find_foreign_threads() -> list[str]:
    """Return the names of threads that Python did not start and that a fork may miss.

    Not counted: OpenBLAS's pool, which OpenBLAS restarts in a fork (pthread_atfork(3)); the thread of
    `faulthandler.dump_traceback_later`; and threads that `_thread` started without `threading`, such as
    gevent's pool, which gevent restarts in a fork.

    Threads that were found are checked again for up to 31 ms, to avoid a false warning.  A Python thread
    that has been joined may not have ended yet.  The thread of faulthandler is recognised by the signals it
    blocks, and may not have blocked them yet.
    """
    global _lasting
    names = _look()
    for pause in _PAUSES:
        if len(names) <= _lasting:
            break
        unpatched.sleep(pause)
        names = _look()
    _lasting = len(names)
    return names


def _look() -> list[str]:
    try:
        found = list(_list_foreign())
    except OSError:  # no /proc
        return []
    # a list, for a generator that is dropped loses an interrupt
    watchdogs = [one for one in found if one[1]]
    if watchdogs and "faulthandler" in sys.modules:
        found.remove(watchdogs[0])
    if not found:
        return []
    harmless = _count_openblas() + _count_unlisted()
    return [name for name, _ in found[: max(len(found) - harmless, 0)]]


def _count_unlisted() -> int:
    """Return how many threads the interpreter knows that `threading` does not list."""
    threading = sys.modules.get("threading")
    listed = {thread.ident for thread in threading.enumerate()} if threading is not None else set()
    return len(sys._current_frames().keys() - listed - {_get_ident()})


def _list_foreign() -> Iterator[tuple[str, bool]]:
    """Yield the name of each foreign thread, and whether it blocks all signals."""
    import _thread

    threading = sys.modules.get("threading")
    started = threading.enumerate() if threading is not None else ()
    own = {thread.native_id for thread in started} | {_thread.get_native_id()}
    for task in os.listdir(_TASKS):
        if int(task) in own:
            continue
        try:
            with open(f"{_TASKS}/{task}/status", encoding="utf-8", errors="replace") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except OSError:  # it has ended
            continue
        name = fields.get("Name", "?")
        if not name.startswith(_SURVIVING):
            yield name, bool(int(fields.get("SigBlk", "0"), 16) >> 14 & 1)  # SIGTERM as a sample


def _count_openblas() -> int:
    """Return how many threads belong to OpenBLAS, which numpy and scipy bundle."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        libraries = {line.split(maxsplit=5)[5].rstrip() for line in file if "openblas" in line}
    count = 0
    for library in libraries:
        import ctypes

        try:
            loaded = ctypes.CDLL(library)
        except OSError:  # its file has been replaced
            continue
        sizes = [getattr(loaded, name)() for name in _POOL_SIZES if hasattr(loaded, name)]
        count += max(sizes, default=1) - 1
    return count
