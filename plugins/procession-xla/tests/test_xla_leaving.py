"""Ranks leave JAX's distributed runtime together, however long the last one takes."""

from __future__ import annotations

from typing import Any

import pytest

import xla_ranks
from procession import start_processes
from xla_scripts import on_each_base

CPU = {"platform": "cpu", "distributed": True}


def leave(late: int, seconds: float, **options: Any) -> list[int | None]:
    """Run ranks of which one returns later than the others; return the exit codes."""
    context = start_processes(
        xla_ranks.return_at_once_but,
        (late, seconds),
        2,
        join=False,
        collect_results=True,
        start_method="xla",
        options={**CPU, **options},
        timeout=60,
    )
    with context:
        assert context.results() == [0, 1]
    return [process.exitcode for process in context.processes]


@on_each_base
@pytest.mark.parametrize("late", [0, 1])
def test_a_rank_can_return_before_the_others(base: str, late: int) -> None:
    """Also the first one, which runs the coordinator: without it the others would abort."""
    assert leave(late, 1, base=base) == [0, 0]


@on_each_base
def test_a_rank_can_return_long_before_the_others(base: str) -> None:
    """Even longer before them than JAX alone would wait."""
    assert leave(1, 3, base=base, shutdown_timeout=1) == [0, 0]


@pytest.mark.parametrize("base", ["forkserver", "spawn"])  # in a fork, pytest has the warnings
def test_ranks_that_used_jax_without_a_connection_warn(base: str, capfd: Any) -> None:
    options = {"platform": "cpu", "base": base}
    start_processes(xla_ranks.count_local_devices, (), 2, start_method="xla", options=options)
    assert capfd.readouterr().err.count("used JAX without a connection") == 1


@pytest.mark.parametrize(
    ("fn", "nprocs", "distributed"),
    [
        (xla_ranks.count_local_devices, 2, False),
        (xla_ranks.count_local_devices, 1, None),
        (xla_ranks.initialize_and_see, 2, None),
        (xla_ranks.see_modules, 2, None),
    ],
)
def test_ranks_that_are_to_be_on_their_own_are_not(
    fn: Any, nprocs: int, distributed: bool | None, capfd: Any
) -> None:
    options = {"platform": "cpu", "distributed": distributed}
    start_processes(fn, (), nprocs, start_method="xla", options=options, timeout=60)
    assert "used JAX without a connection" not in capfd.readouterr().err
