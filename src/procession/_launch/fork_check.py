"""Finds what a fork of this process would break, and says so before one is made.

Certain: a library says that a GPU's runtime or XLA is initialised in this process.  Likely: a GPU's
driver is open, or other threads run.  Nothing is imported or initialised to find out: libraries
are read where `sys.modules` has them, and what one cannot tell counts as not known.
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
"""What a process has open once a GPU's driver is initialised in it, and whose driver it is."""

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
"""How the modules begin whose threads are prepared for a fork, or are no loss to a rank.

Every notebook has ipykernel's, and what a queue's feeder thread holds is put right in the rank.
"""

Namespace = dict[str, Any]
Ask = Callable[[Namespace], object]


def check_fork(choice: str) -> None:
    """Refuse or warn of a fork of this process, as the option ``fork_check`` asks.

    Args:
        choice: ``error`` refuses what is certain to break and warns of what is likely to; ``warn`` warns
            of both; ``off`` looks for nothing.

    Raises:
        UnsafeForkError: something is certain to break.
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
    """Return what is certain to break, one sentence for each runtime that is initialised."""
    return [
        f"{runtime} is initialised in this process ({', '.join(libraries)}): it cannot be used in a "
        "fork of it; a rank that tries fails or hangs"
        for runtime, libraries in find_initialised().items()
    ]


def find_initialised() -> dict[str, list[str]]:
    """Return the runtimes (CUDA, XPU, XLA) that are initialised in this process, and by which libraries."""
    holders: dict[str, list[str]] = {}
    for runtime, library, module, ask in _PROBES:
        if module in sys.modules and _says_yes(module, ask):
            holders.setdefault(runtime, []).append(library)
    return holders


def find_likely(certain: list[str]) -> list[str]:
    """Return what is likely to break, beside what is certain to."""
    drivers = [] if certain else find_open_drivers()  # a runtime is named already
    found = [
        f"the {_DRIVERS[node]} driver is open in this process ({node}), though no library says that "
        f"it uses it: {_DRIVERS[node]} cannot be relied on in a fork of it"
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
            f"threads that Python did not start run in this process ({_shorten(foreign)}): after a parallel "
            "operation, OpenMP's wait in every rank for ever in the next one"
        )
    return found


def _find_foreign_threads() -> list[str]:
    """Return the names of threads that Python did not start; look only where there is more than one."""
    try:
        if os.stat("/proc/self/task").st_nlink <= 3:  # one folder a thread, beside `.` and `..`
            return []
    except OSError:  # no /proc
        return []
    from procession._launch.foreign_threads import find_foreign_threads

    return find_foreign_threads()


def find_open_drivers() -> list[str]:
    """Return the device nodes of GPU drivers that this process has open."""
    nodes = [node for node in _DRIVERS if os.path.exists(node)]
    if not nodes:  # descriptors are listed only where there is something to find
        return []
    links = set(_read_links("/proc/self/fd"))
    return [node for node in nodes if node in links]


def find_threads() -> list[str]:
    """Return the names of the Python threads that run beside this one and may hold a lock."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    own = {threading.get_ident(), getattr(threading, "get_native_id", lambda: 0)()}
    try:
        return [
            thread.name
            for thread in threading.enumerate()
            # greenlets that pass for threads have the native id of the thread they share
            if not own & {thread.ident, getattr(thread, "native_id", None)}
            and not _survives(thread)
            and not _has_ended(thread)
        ]
    except Exception:  # a class of threads that cannot be asked
        return []


def _survives(thread: Any) -> bool:
    target = getattr(thread, "_target", None)
    target = getattr(target, "func", target)  # of a partial
    modules = (type(thread).__module__, getattr(target, "__module__", None))
    return any(isinstance(module, str) and module.startswith(_SURVIVING) for module in modules)


def _has_ended(thread: Any) -> bool:
    """Tell a thread that threading did not start: before Python 3.13 it keeps those for ever."""
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
        except OSError:  # closed meanwhile
            pass


def _shorten(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _count_own_frames() -> int:
    """Return how many frames from the caller's on are procession's own."""
    count = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith("procession."):
        count, frame = count + 1, frame.f_back
    return count


def _says_yes(module: str, ask: Ask) -> bool:
    """Ask one library; whatever goes wrong means that it is not known."""
    try:
        # Past __getattr__ and lazy loaders, which would import.
        return ask(object.__getattribute__(sys.modules[module], "__dict__")) is True
    except Exception:  # another version of it, or half imported
        return False


def _ask_numba(of: Namespace) -> bool:
    """Tell whether the driver is up: numba calls one that it cannot load initialised as well."""
    state = vars(of["driver"])  # its __getattr__ would initialise it
    return state["is_initialized"] is True and state["initialization_error"] is None


def _ask_cupy(of: Namespace) -> bool:
    """Tell whether this thread has a context; asked of a driver that is not open, HIP would start it."""
    return bool(find_open_drivers()) and of["ctxGetCurrent"]() != 0


_PROBES: tuple[tuple[str, str, str, Ask], ...] = (
    ("CUDA", "torch", "torch.cuda", lambda of: of["is_initialized"]()),
    ("CUDA", "cupy", "cupy_backends.cuda.api.driver", _ask_cupy),
    ("CUDA", "numba", "numba.cuda.cudadrv.driver", _ask_numba),
    ("XPU", "torch", "torch.xpu", lambda of: of["is_initialized"]()),
    ("XLA", "jax", "jax._src.xla_bridge", lambda of: of["backends_are_initialized"]()),
    ("XLA", "torch_xla", "torch_xla", lambda of: of["_XLAC"]._xla_runtime_is_initialized()),
)
"""What a library can have initialised, which library, the module that knows, and how that is asked."""
