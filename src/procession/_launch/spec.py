"""Builds the spec that the ranks of a launch get from their caller (`procession._rank.spec`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from procession._launch.environment import plain_str
from procession._python.imported import get_if_imported
from procession.protocol import Launch

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec, RankSpec


def make_spec(launch: Launch, context: str, *, forked: bool) -> RankSpec:
    """Return the spec that every rank of a launch gets, whatever its start method."""
    current_process = get_if_imported("multiprocessing.process", "current_process")
    own = current_process() if current_process is not None else None
    return {
        "start_method": launch.start_method,
        "context": context,
        "launch_id": os.urandom(8).hex(),
        "nprocs": launch.nprocs,
        "place": None,
        "daemon": launch.daemon,
        "forked": forked,
        "wants_results": launch.wants_results,
        "prints_errors": launch.prints_errors,
        "parent_pid": os.getpid(),
        "parent_name": plain_str(own.name) if own is not None else "MainProcess",
        "authkey": bytes(own.authkey) if own is not None else os.urandom(32),
        "identity": launch.identity,
        "tracker": -1,
        "entry": launch.entry,
        "coverage": _find_coverage(),
        "exit_barrier": [],
    }


def _find_coverage() -> tuple[str, str | None] | None:
    """Return the settings with which coverage measures ranks; None if it does not."""
    multiproc = sys.modules.get("coverage.multiproc")
    if multiproc is None:
        return None
    from procession._rank.coverage import find_settings

    return find_settings(multiproc)


def find_entry_module(launch: Launch) -> str:
    """Return the module of `Launch.entry`, to import it once for all ranks; "" if there is no entry."""
    return "" if launch.entry is None else launch.entry[0].partition(":")[0]


def make_bootstrap_spec(launch: Launch, context: str, *, forked: bool) -> BootstrapSpec:
    """Return the spec of ranks that do not inherit this process's memory."""
    import multiprocessing  # noqa: F401  # creates the authentication key of this process

    from procession._linux import credentials

    return {
        **make_spec(launch, context, forked=forked),
        "sys_path": list_path(),
        "argv": list_arguments(),
        "cwd": None,
        "main": None,
        "sources": {},
        "locations": {},
        "fds": [],
        "buffers": [],
        "imports": [],
        "mark": 0,
        "capabilities": None if forked else credentials.find_excess(),
    }


def list_path() -> list[Any]:
    """Return the import path for ranks.

    The first working directory of this process replaces "", which means the current directory.
    multiprocessing does the same.

    Raises:
        TypeError: `sys.path` holds an object that ranks cannot receive.
    """
    entries = plain_list("sys.path", sys.path)
    if "" in entries:
        import procession

        first = procession._first_folder
        entries = [first if entry == "" else entry for entry in entries if entry or first]
    return entries


def list_arguments() -> list[Any]:
    """Return the command line for ranks; an empty list where an application embeds Python and has none.

    Raises:
        TypeError: `sys.argv` holds an object that ranks cannot receive.
    """
    return plain_list("sys.argv", getattr(sys, "argv", []))


def plain_list(name: str, values: Iterable[object]) -> list[Any]:
    """Return values that `marshal` can write: paths and objects of classes derived from str become str.

    Raises:
        TypeError: `marshal` cannot write a value; the message says which.
    """
    return [
        value if type(value) in _PLAIN else _to_str(name, index, value)
        for index, value in enumerate(values)
    ]


_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


def _to_str(name: str, index: int, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{name}[{index}] is {value!r:.100} ({type(value).__name__}): ranks can receive only strings and "
            f"paths in {name}"
        )
    return plain_str(value)


def find_folder() -> str | None:
    """Return this process's working directory; None if it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _call_with_mask_kept(call: Callable[[], Any]) -> Any:
    """Call a function that unblocks signals; restore the caller's mask (bpo-33613 unblocks them for good)."""
    import signal

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        return call()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def tracker_fd() -> int:
    """Return the descriptor of this process's resource tracker, which ranks share as under multiprocessing.

    Shared memory that a rank creates then exists until all ranks have ended.  Return -1 where a standard
    stream is closed: the tracker's pipe would take the stream's number, and so the tracker would hold its
    own pipe open and run for ever.
    """
    from multiprocessing import resource_tracker

    try:
        for number in (0, 1, 2):
            os.fstat(number)
        fd = _call_with_mask_kept(resource_tracker.getfd)
    except (OSError, ValueError):  # a stream is closed, or other code closed the tracker's pipe
        return -1
    return -1 if fd is None else fd
