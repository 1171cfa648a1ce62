"""Writes the orders that the ranks of a launch get from their launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from procession._launch.environment import plain_str
from procession._python.imported import get_if_imported
from procession.protocol import Launch

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec, RankSpec


def make_spec(launch: Launch, context: str, *, forked: bool) -> RankSpec:
    """Return what every rank of a launch is told, whatever its start method."""
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
    """Return how ranks are to be measured, if this process is and its ranks are to be."""
    multiproc = sys.modules.get("coverage.multiproc")
    if multiproc is None:
        return None
    from procession._rank.coverage import find_settings

    return find_settings(multiproc)


def find_entry_module(launch: Launch) -> str:
    """Return the module of what each rank calls first, to be imported once for all; "" for none."""
    return "" if launch.entry is None else launch.entry[0].partition(":")[0]


def make_bootstrap_spec(launch: Launch, context: str, *, forked: bool) -> BootstrapSpec:
    """Return what ranks are told that do not inherit this process's memory."""
    import multiprocessing  # noqa: F401  # its authentication key is this process's from now on

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
    """Return the import path that ranks are to have.

    In it the working directory that this process had first takes the place of "", which means the current
    one, as in multiprocessing.

    Raises:
        TypeError: it holds what ranks cannot have.
    """
    entries = plain_list("sys.path", sys.path)
    if "" in entries:
        import procession

        first = procession._first_folder
        entries = [first if entry == "" else entry for entry in entries if entry or first]
    return entries


def list_arguments() -> list[Any]:
    """Return the command line that ranks are to have; what embeds Python may have none.

    Raises:
        TypeError: it holds what ranks cannot have.
    """
    return plain_list("sys.argv", getattr(sys, "argv", []))


def plain_list(name: str, values: Iterable[object]) -> list[Any]:
    """Return values as `marshal` takes them: paths and strings of other classes become str.

    Raises:
        TypeError: one cannot be had by ranks; the message says which.
    """
    return [
        value if type(value) in _PLAIN else _to_str(name, index, value)
        for index, value in enumerate(values)
    ]


_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


def _to_str(name: str, index: int, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{name}[{index}] is {value!r:.100} ({type(value).__name__}): in {name}, ranks can only have "
            "strings and paths"
        )
    return plain_str(value)


def find_folder() -> str | None:
    """Return this process's working directory, None if it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def tracker_fd() -> int:
    """Return the descriptor of this process's resource tracker, which ranks share, as everywhere.

    Shared memory that a rank makes then outlives that rank, until all of them have ended.  Where a
    standard stream is closed there is none: its pipe would take the stream's place, and the tracker
    would keep its own pipe open, and itself running, for ever.
    """
    from multiprocessing import resource_tracker

    try:
        for number in (0, 1, 2):
            os.fstat(number)
        fd = resource_tracker.getfd()
    except (OSError, ValueError):  # a stream is closed, or its own pipe was, by number
        return -1
    return -1 if fd is None else fd
