"""A rank in an interpreter of its own: reads its orders and payload, then lives as any rank does.

The payload is one file in memory that all ranks of a launch share: the length of the orders (8 bytes),
the orders (`marshal`), and the pickled (fn, args).
"""

from __future__ import annotations

import os
import sys

from procession import rank as rank_life
from procession.report import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from procession.rank import Orders

    class FreshOrders(Orders):
        """What a rank needs besides, if it did not inherit its parent's memory."""

        sys_path: list[str]
        argv: list[str]
        cwd: str | None
        main: tuple[str, str] | None  # how to import __main__ ("path" or "name"), and which
        sources: dict[str, str]  # source text of code that has no file, for tracebacks
        fds: list[int]  # descriptors handed over with the payload


inherited: list[int] = []
"""Descriptors that came with the payload, by index."""

importing_main: bool = False
"""True while this rank imports the launcher's main module: starting ranks now would never end."""

_taken: set[int] = set()


class InheritedFd:
    """Stands in a pickle for a descriptor that travels beside it; made where one is unpickled."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """Return the descriptor; who asks again gets a duplicate, since each owner closes its own."""
        fd = inherited[self.index]
        if fd in _taken:
            return os.dup(fd)
        _taken.add(fd)
        return fd


def make_code(make: Callable[..., Any], arguments: tuple[Any, ...], filename: str) -> Any:
    """Make code that was pickled by value, and give it back the name of its file."""
    return make(*arguments).replace(co_filename=filename)


def main(rank: int, channel: int, payload: int, guard_fd: int) -> None:
    """Run one rank that `spawn` started; the interpreter's own end follows if it succeeded."""
    if not rank_life.may_begin(channel):
        return
    orders, pickled = read_payload(payload)
    os.close(payload)
    status, succeeded = live(orders, pickled, rank, channel, guard_fd)
    if not succeeded:
        rank_life.leave(status, succeeded)


def live(
    orders: FreshOrders, pickled: memoryview, rank: int, channel: int, guard_fd: int
) -> tuple[int, bool]:
    """Live a rank's life on a payload; return its exit status and whether it succeeded."""
    reporter = Reporter(channel)
    return rank_life.live(orders, rank, reporter, guard_fd, lambda: _load(orders, pickled))


def read_payload(fd: int) -> tuple[FreshOrders, memoryview]:
    """Read the orders and the pickle; siblings share the descriptor's offset, so never move it."""
    import marshal

    size = os.fstat(fd).st_size
    data = memoryview(_read_at(fd, size))
    end = 8 + int.from_bytes(data[:8], "big")
    return marshal.loads(data[8:end]), data[end:]


def _read_at(fd: int, size: int) -> bytes | bytearray:
    data = os.pread(fd, size, 0)
    if len(data) == size:
        return data
    whole = bytearray(data)  # one read returns at most 2 GiB
    while len(whole) < size:
        whole += os.pread(fd, size - len(whole), len(whole))
    return whole


def _load(orders: FreshOrders, pickled: memoryview) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    inherited[:] = orders["fds"]
    _take_place(orders)
    if orders["main"] is not None:
        import_main(*orders["main"])
    from _pickle import loads

    fn, args = loads(pickled)
    return fn, args


def _take_place(orders: FreshOrders) -> None:
    """Take on the launcher's import path, arguments and working directory."""
    sys.path[:] = orders["sys_path"]
    sys.argv[:] = orders["argv"]
    if orders["cwd"] is not None:
        try:
            os.chdir(orders["cwd"])
        except FileNotFoundError:  # the launcher's own is gone too
            pass
    if orders["sources"]:
        import linecache

        for name, text in orders["sources"].items():
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name


def import_main(how: str, what: str) -> None:
    """Import the launcher's main module as ``__mp_main__``, as multiprocessing.spawn does."""
    global importing_main
    if "__mp_main__" in sys.modules and sys.modules["__main__"] is sys.modules["__mp_main__"]:
        return
    import runpy
    import types

    importing_main = True
    try:
        module = types.ModuleType("__mp_main__")
        run = runpy.run_module if how == "name" else runpy.run_path
        options: dict[str, Any] = {"alter_sys": True} if how == "name" else {}
        module.__dict__.update(run(what, run_name="__mp_main__", **options))
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    finally:
        importing_main = False
