"""What ranks do in the kit: top-level functions of a module that every start method can import."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from procession.testing.scratch import Stage

LONG = 60.0
"""Seconds that a healthy rank works: far longer than any test waits."""


def nothing(rank: int) -> None:
    """Return at once."""


def give(rank: int, *args: Any) -> tuple[Any, ...]:
    """Return the rank and args."""
    return rank, *args


def enter(rank: int, folder: str) -> None:
    """Write this rank's pid to a cue, and return."""
    Stage(folder, LONG).tell(f"rank {rank}", str(os.getpid()))


def show_process(rank: int, folder: str, cue: str) -> None:
    """Write this rank's pid and the namespace of that pid to a cue; wait for another cue."""
    stage = Stage(folder, LONG)
    stage.tell(f"rank {rank}", f"{os.getpid()} {find_namespace()}")
    stage.await_cue(cue)


def see_namespace(rank: int) -> str:
    """Return the namespace of this rank's pid."""
    return find_namespace()


def find_namespace() -> str:
    """Return the name of this host and of its pid namespace."""
    try:
        return f"{os.uname().nodename} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


def work(rank: int, folder: str) -> None:
    """Write this rank's pid to a cue, and work."""
    enter(rank, folder)
    time.sleep(LONG)


def work_as(rank: int, who: int, folder: str) -> int:
    """Work in rank ``who``; return in the others."""
    if rank == who:
        work(rank, folder)
    return rank


def work_until(rank: int, folder: str, cue: str) -> int:
    """Write this rank's pid to a cue, and work until another cue is given."""
    enter(rank, folder)
    Stage(folder, LONG).await_cue(cue)
    return rank


def count_calls(rank: int, folder: str) -> None:
    """Add one to the number of calls in this rank."""
    with open(os.path.join(folder, f"calls {rank}"), "a", encoding="ascii") as file:
        file.write(".")


def raise_(rank: int, *who: int) -> None:
    """Raise in the ranks ``who``, or in all if none is given."""
    if not who or rank in who:
        raise ValueError(f"of rank {rank}")


def raise_and_stop(rank: int) -> None:
    """Raise, and stop this process by SIGSTOP before it has ended."""
    import atexit
    import signal

    atexit.register(os.kill, os.getpid(), signal.SIGSTOP)
    raise_(rank)


class InTurn(ValueError):
    """An exception that gives the cue for the next rank's failure while its own text is composed."""

    def __init__(self, rank: int, folder: str) -> None:
        super().__init__(rank, folder)

    def __str__(self) -> str:
        rank, folder = self.args
        Stage(folder, LONG).tell(f"raised {rank}")
        return f"of rank {rank}"


def raise_in_turn(rank: int, folder: str, first: int) -> None:
    """Raise after the next higher rank has raised; rank ``first`` raises at once."""
    if rank < first:
        Stage(folder, LONG).await_cue(f"raised {rank + 1}")
    raise InTurn(rank, folder)


def leave(rank: int, code: object) -> None:
    """Call sys.exit."""
    sys.exit(code)  # type: ignore[arg-type]


def leave_at_once(rank: int, code: int) -> None:
    """Call os._exit, so that the rank reports nothing."""
    os._exit(code)


def see_environment(rank: int, *names: str) -> list[str | None]:
    """Return the values of some environment variables."""
    return [os.environ.get(name) for name in names]


def see_rank_info(rank: int) -> tuple[int, int]:
    """Return rank and nprocs as `procession.rank_info` gives them."""
    from procession.rank_place import rank_info

    info = rank_info()
    assert info is not None
    return info.rank, info.nprocs


def make_large(rank: int, size: int) -> bytes:
    """Return ``size`` bytes."""
    return bytes([rank]) * size


def return_unpicklable(rank: int) -> Any:
    """Return an object that cannot be pickled, not even by value."""
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
    """Ignore SIGTERM, and work."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work(rank, folder)


class RaisesOnLoad:
    """An object that can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _raise_on_load, ()


def _raise_on_load() -> Any:
    raise ValueError("raised while unpickled")


class RaisesOnDump:
    """An object that raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("raised while pickled")


class SeesEnvironment:
    """An object that is unpickled as the value of an environment variable of that process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return os.getenv, (self.name,)


class CountsPickling:
    """An object that counts how often it is pickled."""

    pickled = 0

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return CountsPickling, ()
