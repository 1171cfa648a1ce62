"""What ranks do in the kit: functions at the top of a module that every start method can import."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from procession.testing.scratch import Stage

LONG = 60.0
"""Seconds that a healthy rank works: far longer than any test waits for it."""


def nothing(rank: int) -> None:
    """Return at once."""


def give(rank: int, *args: Any) -> tuple[Any, ...]:
    """Return what was handed over."""
    return rank, *args


def enter(rank: int, folder: str) -> None:
    """Tell which process this rank is, and return."""
    Stage(folder, LONG).tell(f"rank {rank}", str(os.getpid()))


def show_process(rank: int, folder: str, cue: str) -> None:
    """Tell which process this rank is, and in which namespace it has that number; wait for a cue."""
    stage = Stage(folder, LONG)
    stage.tell(f"rank {rank}", f"{os.getpid()} {find_namespace()}")
    stage.await_cue(cue)


def see_namespace(rank: int) -> str:
    """Return where this rank has its number."""
    return find_namespace()


def find_namespace() -> str:
    """Return the name of this machine and of the namespace in which processes have their numbers."""
    try:
        return f"{os.uname().nodename} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


def work(rank: int, folder: str) -> None:
    """Tell which process this rank is, and work."""
    enter(rank, folder)
    time.sleep(LONG)


def work_as(rank: int, who: int, folder: str) -> int:
    """Work as one rank; return as the others."""
    if rank == who:
        work(rank, folder)
    return rank


def work_until(rank: int, folder: str, cue: str) -> int:
    """Tell which process this rank is, and work until it is told to stop."""
    enter(rank, folder)
    Stage(folder, LONG).await_cue(cue)
    return rank


def count_calls(rank: int, folder: str) -> None:
    """Add one to the calls of this rank."""
    with open(os.path.join(folder, f"calls {rank}"), "a", encoding="ascii") as file:
        file.write(".")


def raise_(rank: int, *who: int) -> None:
    """Raise in some ranks, or all."""
    if not who or rank in who:
        raise ValueError(f"of rank {rank}")


def raise_and_stop(rank: int) -> None:
    """Raise, and be stopped by a signal before the process has ended."""
    import atexit
    import signal

    atexit.register(os.kill, os.getpid(), signal.SIGSTOP)
    raise_(rank)


class InTurn(ValueError):
    """Gives the cue for the next rank's failure while it is being told itself."""

    def __init__(self, rank: int, folder: str) -> None:
        super().__init__(rank, folder)

    def __str__(self) -> str:
        rank, folder = self.args
        Stage(folder, LONG).tell(f"raised {rank}")
        return f"of rank {rank}"


def raise_in_turn(rank: int, folder: str, first: int) -> None:
    """Raise, after the rank above this one has."""
    if rank < first:
        Stage(folder, LONG).await_cue(f"raised {rank + 1}")
    raise InTurn(rank, folder)


def leave(rank: int, code: object) -> None:
    """Call sys.exit."""
    sys.exit(code)  # type: ignore[arg-type]


def leave_at_once(rank: int, code: int) -> None:
    """End without telling anybody."""
    os._exit(code)


def see_environment(rank: int, *names: str) -> list[str | None]:
    """Return some variables."""
    return [os.environ.get(name) for name in names]


def see_rank_info(rank: int) -> tuple[int, int]:
    """Return what `procession.rank_info` says."""
    from procession.rank_place import rank_info

    info = rank_info()
    assert info is not None
    return info.rank, info.nprocs


def make_large(rank: int, size: int) -> bytes:
    """Return that many bytes."""
    return bytes([rank]) * size


def return_unpicklable(rank: int) -> Any:
    """Return what cannot be pickled, not even by value."""
    return (each for each in range(rank))


def nest(rank: int, start_method: str) -> list[Any]:
    """Launch ranks from a rank."""
    from procession.api import run

    return run(give, (rank,), 2, start_method=start_method)


def put(rank: int, queue: Any) -> None:
    """Put this rank on a queue."""
    queue.put(rank)


def open_gate(rank: int, lock: Any, folder: str) -> None:
    """Wait for a lock that the caller holds."""
    enter(rank, folder)
    with lock:
        pass


def ignore_termination(rank: int, folder: str) -> None:
    """Work, whatever SIGTERM says."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work(rank, folder)


class RaisesOnLoad:
    """Pickles; raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return _raise_on_load, ()


def _raise_on_load() -> Any:
    raise ValueError("raised while unpickled")


class RaisesOnDump:
    """Does not pickle."""

    def __reduce__(self) -> Any:
        raise ValueError("raised while pickled")


class SeesEnvironment:
    """Becomes, where it is unpickled, the value of a variable there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return os.getenv, (self.name,)


class CountsPickling:
    """Counts how often it is pickled."""

    pickled = 0

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return CountsPickling, ()
