"""Callers may close all descriptors by number, ours too, and open files that get these numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import run_program


@pytest.mark.parametrize("kind", ["files", "sockets", "pipes"])
def test_files_of_the_caller_stay_open(start_method: str, kind: str) -> None:
    """In a fork of it, and in itself, where the next launch starts all that it needs anew."""
    done = run_program("closes_descriptors_by_number.py", start_method, kind)
    assert done.stdout == "0\n[0, 1] []\n"


def test_forks_of_a_rank_close_none_of_its_files(start_method: str, tmp_path: Path) -> None:
    path = str(tmp_path / "statuses")
    done = run_program("forks_in_a_rank_that_closed_descriptors.py", start_method, path)
    assert done.stdout == "00\n"
