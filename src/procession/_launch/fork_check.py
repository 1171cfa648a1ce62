"""Finds what a fork of this process would break, and reports it before the fork.

Certain to break: a library says that a GPU's runtime or XLA is initialised in this process.  Likely to
break: a GPU's driver is open, or other threads run.  The check imports and initialises nothing.  It asks
libraries that `sys.modules` holds; a library that cannot answer counts as not initialised.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from procession.exceptions import UnsafeForkError, UnsafeForkWarning

CHOICES = ("error", "warn", "off")
"""The values of the option ``fork_check``; the first is the default."""

_DRIVERS = {"/dev/nvidia-uvm": "CUDA", "/dev/kfd": "ROCm"}
"""Device nodes that are open once a GPU's driver is initialised in the process, and their platforms."""

_SURVIVING = (
    "ipykernel.",
    "IPython.",
    "zmq.utils.garbage",
    "tqdm.",
    "debugpy.",
    "pydevd",
    "_pydev",
    "multiprocessing.queues",
    "procession._supervise.background",
)
"""Prefixes of modules whose threads are prepared for a fork, or that a rank does not miss.

Every notebook runs ipykernel's threads.  A rank repairs what a queue's feeder thread held.
"""

Namespace = dict[str, Any]
Ask = Callable[[Namespace], object]


def check_fork(choice: str) -> None:
    """Refuse a fork of this process or warn about it, as the option ``fork_check`` says.

    Args:
        choice: ``error`` raises for what is certain to break and warns about what is likely to; ``warn``
            warns about both; ``off`` checks nothing.

    Raises:
        UnsafeForkError: something is certain to break, and the choice is ``error``.
        ValueError: the choice is none of the three.
    """
    if choice not in CHOICES:
        known = ", ".join(map(repr, CHOICES))
        raise ValueError(f"options: fork_check must be one of {known}, not {choice!r}")
    if choice == "off":
        return
    certain = find_certain()
    if certain and choice == "error":
        raise UnsafeForkError(certain)
    found = [*certain, *find_likely(certain)]
    if found:
        text = str(UnsafeForkError(found))
        warnings.warn(text, UnsafeForkWarning, stacklevel=_count_own_frames() + 1)


def find_certain() -> list[str]:
    """Return what is certain to break: one sentence for each runtime that is initialised."""
    return [
        f"{runtime} is initialised in this process ({', '.join(libraries)}): forked ranks cannot use it; "
        "one that tries fails or hangs"
        for runtime, libraries in find_initialised().items()
    ]


def find_initialised() -> dict[str, list[str]]:
    """Return the runtimes (CUDA, XPU, XLA) that are initialised in this process, each with its libraries."""
    holders: dict[str, list[str]] = {}
    for runtime, library, module, ask in _PROBES:
        if module in sys.modules and _says_yes(module, ask):
            holders.setdefault(runtime, []).append(library)
    return holders


def find_likely(certain: list[str]) -> list[str]:
    """Return what is likely to break, beside what is certain to."""
    drivers = [] if certain else find_open_drivers()  # `certain` already names the runtime
    found = [
        f"the {_DRIVERS[node]} driver is open in this process ({node}), but no known library reports "
        f"using it: {_DRIVERS[node]} may fail or hang in forked ranks"
        for node in drivers
    ]
    names = find_threads()
    if names:
        found.append(
            f"other threads run in this process ({_shorten(names)}): a fork does not copy them, and a "
            "lock that one of them holds stays held in every rank"
        )
    foreign = _find_foreign_threads()
    if foreign:
        found.append(
            f"threads that Python did not start run in this process ({_shorten(foreign)}): if they are "
            "OpenMP's, every rank hangs in its first parallel operation"
        )
    return found


def _find_foreign_threads() -> list[str]:
    """Return the names of threads that Python did not start; skip the search if only one thread runs."""
    try:
        if os.stat("/proc/self/task").st_nlink <= 3:  # `.`, `..` and one folder per thread
            return []
    except OSError:  # no /proc
        return []
    from procession._launch.foreign_threads import find_foreign_threads

    return find_foreign_threads()


def find_open_drivers() -> list[str]:
    """Return the device nodes of GPU drivers that this process has open."""
    nodes = [node for node in _DRIVERS if os.path.exists(node)]
    if not nodes:  # listing descriptors takes time: do it only if there is something to find
        return []
    links = set(_read_links("/proc/self/fd"))
    return [node for node in nodes if node in links]


def find_threads() -> list[str]:
    """Return the names of other Python threads that may hold a lock."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    own = {threading.get_ident(), getattr(threading, "get_native_id", lambda: 0)()}
    try:
        return [
            thread.name
            for thread in threading.enumerate()
            # greenlets that pose as threads have the native id of the thread they share
            if not own & {thread.ident, getattr(thread, "native_id", None)}
            and not _survives(thread)
            and not _has_ended(thread)
        ]
    except Exception:  # a thread class that lacks these attributes
        return []


def _survives(thread: Any) -> bool:
    target = getattr(thread, "_target", None)
    target = getattr(target, "func", target)  # of a partial
    modules = (type(thread).__module__, getattr(target, "__module__", None))
    return any(isinstance(module, str) and module.startswith(_SURVIVING) for module in modules)


def _has_ended(thread: Any) -> bool:
    """Tell whether a foreign thread has ended; before Python 3.13 `threading` keeps such threads listed."""
    dummy = type(thread).__name__ == "_DummyThread" and os.path.isdir("/proc/self/task")
    return dummy and not os.path.exists(f"/proc/self/task/{thread.native_id}")


def _read_links(folder: str) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # no /proc
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:  # closed in the meantime
            pass


def _shorten(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _count_own_frames() -> int:
    """Return how many frames, from the caller's frame outwards, belong to procession."""
    count = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith("procession."):
        count, frame = count + 1, frame.f_back
    return count


def _says_yes(module: str, ask: Ask) -> bool:
    """Ask one library; an error counts as no."""
    try:
        # bypasses __getattr__ and lazy loaders, which would import
        return ask(object.__getattribute__(sys.modules[module], "__dict__")) is True
    except Exception:  # another version of the library, or half imported
        return False


def _ask_numba(of: Namespace) -> bool:
    """Tell whether the driver is up; numba also reports a driver that it could not load as initialised."""
    state = vars(of["driver"])  # __getattr__ of the driver object would initialise the driver
    return state["is_initialized"] is True and state["initialization_error"] is None


def _ask_cupy(of: Namespace) -> bool:
    """Tell whether this thread has a context; on a driver that is not open, HIP's call would start it."""
    return bool(find_open_drivers()) and of["ctxGetCurrent"]() != 0


_PROBES: tuple[tuple[str, str, str, Ask], ...] = (
    ("CUDA", "torch", "torch.cuda", lambda of: of["is_initialized"]()),
    ("CUDA", "cupy", "cupy_backends.cuda.api.driver", _ask_cupy),
    ("CUDA", "numba", "numba.cuda.cudadrv.driver", _ask_numba),
    ("XPU", "torch", "torch.xpu", lambda of: of["is_initialized"]()),
    ("XLA", "jax", "jax._src.xla_bridge", lambda of: of["backends_are_initialized"]()),
    ("XLA", "torch_xla", "torch_xla", lambda of: of["_XLAC"]._xla_runtime_is_initialized()),
)
"""A runtime, a library that can initialise it, the module that knows, and how to ask that module."""
