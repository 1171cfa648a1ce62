"""Calls whose types mypy and pyright check; nothing runs this file.

A line that must not pass has an ignore; both checkers report an ignore that is not needed.
"""

from __future__ import annotations

from typing_extensions import assert_type

from procession import Backend, ProcessContext, Started, get_backend, run, spawn, start_processes
from procession.backends.fork import ForkBackend
from procession.backends.forkserver import ForkserverBackend
from procession.backends.spawn import SpawnBackend


def give(rank: int) -> float:
    return rank / 2


def repeat(rank: int, text: str, times: int) -> list[str]:
    return [text] * times


def run_returns_a_list_of_the_type_that_fn_returns() -> None:
    assert_type(run(give), list[float])
    assert_type(run(give, (), 4, start_method="fork"), list[float])
    assert_type(run(repeat, ("a", 2), 4, timeout=3.0), list[list[str]])
    assert_type(run(repeat, ["a", 2]), list[list[str]])


def args_are_checked_against_fn() -> None:
    run(repeat, (2, "a"))  # type: ignore[arg-type]
    run(repeat, ("a",))  # type: ignore[arg-type]
    run(repeat)  # type: ignore[arg-type]
    run(give, ("a",))  # type: ignore[arg-type]
    run(give, nonsense=1)  # type: ignore[call-overload]


async def join_decides_what_start_processes_returns() -> None:
    start_processes(repeat, ("a", 2), 4, True, False, "spawn")
    context = start_processes(repeat, args=["a", 2], nprocs=4, join=False)
    assert_type(context, ProcessContext)
    assert_type(start_processes(give, (), 1, False), ProcessContext)
    assert_type(await context, bool)
    assert_type(context.wait(timeout=1), bool)
    with context as entered:
        assert_type(entered, ProcessContext)
    assert_type(spawn(give), ProcessContext | None)


def backends_are_backends() -> list[Backend]:
    assert_type(get_backend("fork"), Backend)
    return [ForkBackend(), SpawnBackend(), ForkserverBackend()]


def started(backend: Backend) -> Started:
    return backend.start("no launch")  # type: ignore[arg-type]
