"""A process that has launched leaves none of its helpers behind as an orphan, not even as a zombie."""

from __future__ import annotations

import pytest

from scripts import run_program


@pytest.mark.parametrize("how", ["works", "fails", "none"])
@pytest.mark.parametrize("inner", ["fork", "spawn", "forkserver"])
def test_nested_launches_leave_no_zombies(start_method: str, inner: str, how: str) -> None:
    assert run_program("launches_in_ranks.py", start_method, inner, how).stdout == "set()\n"


@pytest.mark.parametrize("inner", ["fork", "spawn", "forkserver"])
def test_launches_in_children_of_multiprocessing_leave_no_zombies(inner: str) -> None:
    done = run_program("launches_in_ranks.py", "multiprocessing", inner, "works")
    assert done.stdout == "set()\n"
