"""Writes the orders that the ranks of a launch get from their launcher."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from procession.loaded import get_loaded
from procession.protocol import Launch

if TYPE_CHECKING:
    from procession.fresh import FreshOrders
    from procession.rank import Orders


def write_orders(launch: Launch, context: str, *, forked: bool) -> Orders:
    """Return what every rank of a launch is told, whatever its start method."""
    current_process = get_loaded("multiprocessing.process", "current_process")
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
        "parent_pid": os.getpid(),
        "parent_name": own.name if own is not None else "MainProcess",
        "authkey": bytes(own.authkey) if own is not None else os.urandom(32),
        "identity": tuple(own._identity) if own is not None else (),
        "tracker": -1,
        "entry": launch.entry,
        "together": [],
    }


def find_entry_module(launch: Launch) -> str:
    """Return the module of what each rank calls first, to be imported once for all; "" for none."""
    return "" if launch.entry is None else launch.entry[0].partition(":")[0]


def write_fresh_orders(launch: Launch, context: str, *, forked: bool) -> FreshOrders:
    """Return what ranks are told that do not inherit this process's memory."""
    import multiprocessing  # noqa: F401  # its authentication key is this process's from now on

    return {
        **write_orders(launch, context, forked=forked),
        "sys_path": list(sys.path),
        "argv": list(sys.argv),
        "cwd": None,
        "main": None,
        "sources": {},
        "locations": {},
        "fds": [],
        "buffers": [],
        "imports": [],
    }


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
