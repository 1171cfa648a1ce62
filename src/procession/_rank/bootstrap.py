"""Bootstraps a rank that did not inherit its caller's memory: reads its spec and payload, then runs it.

The payload is one memory file that all ranks of a launch share (`_launch.payload_file` writes it).
"""

from __future__ import annotations

import os
import sys

from procession._rank import life as rank_life
from procession._rank.report import Reporter
from procession._rank.wire import PAYLOAD_HEAD, start_of_page

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from procession._rank.spec import BootstrapSpec


_FIRST = 1 << 16  # bytes of the payload that are read at once; usually the whole payload


_main: ModuleType | None = None  # the caller's main module, once it is imported


class Payload:
    """A launch's payload, as a rank reads it.  Ranks share the offset of its file, so none may move it."""

    def __init__(self, fd: int, spec: int = -1) -> None:
        import marshal

        self._fd = fd
        self._start = os.pread(fd, _FIRST, 0)
        self._pickled = int.from_bytes(self._start[:8], "big")
        spec_size = int.from_bytes(self._start[8:PAYLOAD_HEAD], "big")
        self._end = PAYLOAD_HEAD + self._pickled + spec_size
        start = PAYLOAD_HEAD + self._pickled
        data = self._read(start, spec_size) if spec < 0 else _read_file(spec)
        self.spec: BootstrapSpec = marshal.loads(data)

    def load(self, channel: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return fn and args; if buffers lie outside the pickle, wait until the caller has written them."""
        from _pickle import loads

        sizes = self.spec["buffers"]
        if not sizes and self._end <= len(self._start):
            os.close(self._fd)
            fn, args = loads(memoryview(self._start)[PAYLOAD_HEAD:])
            return fn, args
        if sizes:
            _import_early(self.spec["imports"])
            if not rank_life.wait_for_go(channel):
                os._exit(1)
        whole = self._map()
        fn, args = loads(whole[PAYLOAD_HEAD:], buffers=self._cut(whole, sizes))
        return fn, args

    def _map(self) -> memoryview:
        """Map the whole file privately, so that writes stay in this process; close the descriptor."""
        from mmap import MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap

        mapped = mmap(self._fd, 0, MAP_PRIVATE, PROT_READ | PROT_WRITE)
        os.close(self._fd)
        return memoryview(mapped)

    def _cut(self, whole: memoryview, sizes: list[int]) -> list[memoryview]:
        buffers = []
        end = self._end
        for size in sizes:
            start = start_of_page(end)
            end = start + size
            buffers.append(whole[start:end])
        return buffers

    def _read(self, start: int, size: int) -> bytes:
        if start + size <= len(self._start):
            return self._start[start : start + size]
        return os.pread(self._fd, size, start)


def _read_file(fd: int) -> bytes:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return data


def main(rank: int, channel: int, death_pipe: int, payload: int, spec: int = -1) -> None:
    """Run one rank that `spawn` started; if it succeeds, return, and the interpreter ends normally.

    The last four arguments are descriptors.  Without ``spec``, the spec is in the payload.
    """
    if rank_life.wait_for_go(channel):
        status, succeeded = live(Payload(payload, spec), rank, channel, death_pipe)
        # at its normal end the interpreter would count a stream that it cannot flush as a failure
        if not (succeeded and rank_life.flush_streams()):
            rank_life.leave(status, succeeded)


def live(payload: Payload, rank: int, channel: int, death_pipe: int) -> tuple[int, bool]:
    """Run a rank on its payload; return its exit status and whether it succeeded."""
    reporter = Reporter(channel)

    def load() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        _prepare(payload.spec, rank)
        try:
            return payload.load(reporter.fileno())
        except (AttributeError, ImportError) as error:
            from procession._rank.advice import note_missing

            note_missing(error)
            raise

    return rank_life.live(payload.spec, rank, reporter, death_pipe, load)


def _prepare(spec: BootstrapSpec, rank: int) -> None:
    """Prepare this process for unpickling the payload."""
    if spec["mark"]:
        from procession._cleanup import marks

        marks.put(0, spec["mark"])
    if spec["capabilities"] is not None:
        from procession._linux.credentials import shed_excess

        shed_excess(spec["capabilities"])
    if spec["fds"]:
        from procession._rank import rebuild

        rebuild.inherited[:] = spec["fds"]
    _adopt_surroundings(spec)
    if spec["locations"]:
        from procession._rank import locations

        locations.use(spec["locations"])
    rank_life.enter(spec, rank)
    if spec["main"] is not None:
        import_main(*spec["main"])


def _import_early(names: list[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError:  # unpickling reports it, if it needs the module
            pass


def _adopt_surroundings(spec: BootstrapSpec) -> None:
    """Adopt the caller's import path, arguments, working directory and sources of code without a file."""
    sys.path[:] = spec["sys_path"]
    sys.argv[:] = spec["argv"]
    if spec["cwd"] is not None:
        try:
            os.chdir(spec["cwd"])
        except FileNotFoundError:  # the caller's folder was deleted, too
            pass
        except PermissionError:  # the caller may be in a folder that it may not enter
            if os.getcwd() != spec["cwd"]:
                raise
    if spec["sources"]:
        import linecache

        for name, text in spec["sources"].items():
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name


def import_main(how: str, what: str) -> None:
    """Import the caller's main module as ``__mp_main__``, as multiprocessing.spawn does."""
    global _main
    if sys.modules["__main__"] is _main:  # the forkserver has imported it
        return
    module = type(sys)("__mp_main__")
    if how == "path" and what.endswith(".py"):
        _execute(what, module)
    else:
        import runpy

        run = runpy.run_module if how == "name" else runpy.run_path
        options: dict[str, Any] = {"alter_sys": True} if how == "name" else {}
        module.__dict__.update(run(what, run_name="__mp_main__", **options))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = _main = module


def _execute(path: str, module: ModuleType) -> None:
    """Execute a script as a module, as `runpy.run_path` would; importing runpy takes longer than a script."""
    import io

    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module.__dict__.update(__file__=path, __cached__=None, __package__="")
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
