"""The contestants of the benchmark of a launch, each called as its documentation says.

Each library is imported when it is called: a worker imports its own, and the main process none.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Function = Callable[..., object]
Launch = Callable[[Function, Sequence[Any], int, str], None]
"""Calls the function with the rank first, in so many ranks, by a start method; returns when all are gone."""


@dataclass(frozen=True, slots=True)
class Running:
    """Ranks that run, and how to wait for their end."""

    pids: list[int]
    wait: Callable[[], None]


Begin = Callable[[Function, Sequence[Any], int, str], Running]
"""Does the same, but returns while the ranks run."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A launcher, or the limit.

    ``module`` is the module that users import, empty for the limit; ``imports`` is what its worker imports.
    """

    module: str
    launch: Launch
    begin: Begin | None = None
    imports: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether the module can be imported here."""
        return not self.module or importlib.util.find_spec(self.module) is not None


def bare(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Start processes that do nothing by the calls of the system: the limit."""
    (run_interpreters if start_method == "spawn" else fork)(ranks)


def fork(ranks: int) -> None:
    """Fork processes that end at once, then reap them."""
    pids = []
    for _ in range(ranks):
        if not (pid := os.fork()):
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def run_interpreters(count: int) -> None:
    """Start interpreters that run nothing, then reap them."""
    command = [sys.executable, "-c", "pass"]
    for process in [subprocess.Popen(command) for _ in range(count)]:
        process.wait()


def procession(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Call procession."""
    launcher: Any = importlib.import_module("procession")
    launcher.start_processes(fn, args, ranks, start_method=start_method)


def begin_procession(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> Running:
    """Call procession without waiting."""
    launcher: Any = importlib.import_module("procession")
    context = launcher.start_processes(fn, args, ranks, join=False, start_method=start_method)
    return Running(context.pids(), context.join)


def stdlib(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Start a multiprocessing.Process for each rank, then join them all."""
    begin_stdlib(fn, args, ranks, start_method).wait()


def begin_stdlib(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> Running:
    """Start a multiprocessing.Process for each rank."""
    context: Any = multiprocessing.get_context(start_method)
    processes = [context.Process(target=fn, args=(rank, *args)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return Running([process.pid for process in processes], lambda: join(processes))


def join(processes: Iterable[Any]) -> None:
    """Wait for all, and check the exit code of each."""
    codes = []
    for process in processes:
        process.join()
        codes.append(process.exitcode)
    if any(codes):
        raise ChildProcessError(f"exit codes of the ranks: {codes}")


def torch(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Call torch.multiprocessing."""
    launcher: Any = importlib.import_module("torch.multiprocessing")
    launcher.start_processes(fn, args=tuple(args), nprocs=ranks, start_method=start_method)


def begin_torch(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> Running:
    """Call torch.multiprocessing without waiting."""
    launcher: Any = importlib.import_module("torch.multiprocessing")
    context = launcher.start_processes(
        fn, tuple(args), ranks, join=False, start_method=start_method
    )

    def wait() -> None:
        while not context.wait():
            pass

    return Running(context.pids(), wait)


def mpire(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Make one call in each worker of a pool of mpire."""
    launcher: Any = importlib.import_module("mpire")
    with launcher.WorkerPool(n_jobs=ranks, start_method=start_method) as pool:
        pool.map(fn, [(rank, *args) for rank in range(ranks)], chunk_size=1)


def loky(fn: Function, args: Sequence[Any], ranks: int, start_method: str) -> None:
    """Make as many calls as an executor of loky has workers; its one start method is like spawn."""
    assert start_method == "spawn"
    executor: Any = importlib.import_module("loky").ProcessPoolExecutor(ranks)
    calls = [executor.submit(fn, rank, *args) for rank in range(ranks)]
    executor.shutdown(wait=True)
    for call in calls:
        call.result()


_OURS = (
    *(
        "procession",
        "procession._launch.launcher",
        "procession.context",
        "procession.backends.fork",
    ),
    "multiprocessing.context",
)
CONTESTANTS = {
    "bare": Contestant("", bare, imports=_OURS),
    "procession": Contestant("procession", procession, begin_procession, _OURS),
    "stdlib": Contestant("multiprocessing", stdlib, begin_stdlib, ("multiprocessing",)),
    "torch": Contestant("torch", torch, begin_torch, ("torch.multiprocessing",)),
    "mpire": Contestant("mpire", mpire, imports=("mpire",)),
    "loky": Contestant("loky", loky, imports=("loky",)),
}
