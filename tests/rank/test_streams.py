"""Callers with closed standard streams, as daemons have: the core opens no descriptor at those numbers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts import run_program

METHODS = ["fork", "spawn", "forkserver", "command"]


@pytest.mark.parametrize("start_method", METHODS)
@pytest.mark.parametrize(
    ("how", "closing"),
    [
        ("nothing", "0<&- >&- 2>&-"),
        ("nothing", ">&- 2>&-"),
        ("nothing", "0<&-"),
        ("file", "2>&-"),
        ("file", "0<&- >&- 2>&-"),
    ],
)
def test_nothing_takes_the_number_of_a_closed_stream(
    start_method: str, how: str, closing: str, tmp_path: Path
) -> None:
    run_program(
        "has_no_streams.py",
        *(start_method, str(tmp_path), how),
        before=("sh", "-c", f'exec "$@" {closing}', "sh"),
        env={**os.environ, "STANDIN": ""},
        capture_output=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert (tmp_path / "outcome").read_text() == "([(0, True), (1, True)], [0, 1], True)"
    if how == "file" and start_method != "fork":  # forked ranks write to the caller's file
        assert (tmp_path / "own").read_text() == ""
    for path in tmp_path.glob("low *"):
        own = str(tmp_path / "own")
        links = [link for _, link in eval(path.read_text())]
        assert [link for link in links if link not in (os.devnull, own)] == []
