"""A stop signals ranks, and lets programs that they started clean up after them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from procession import ProcessRaisedException, start_processes
from procession.testing.scratch import Stage, is_gone
from scripts import PROGRAMS


def test_a_program_that_cleans_up_after_its_rank_has_time_to_do_so(
    start_method: str, tmp_path: Path
) -> None:
    """torch_shm_manager does so; it stays in the group of its rank, and SIGTERM would end it."""
    with pytest.raises(ProcessRaisedException):
        start_processes(start_cleaner, (str(tmp_path),), 2, start_method=start_method)
    for rank in range(2):
        assert (tmp_path / f"cleaned {rank}").exists()
        assert is_gone(int((tmp_path / f"cleaner {rank}").read_text()))


def test_a_program_with_a_handler_for_sigterm_gets_sigterm(
    start_method: str, tmp_path: Path
) -> None:
    with start_processes(
        start_saver, (str(tmp_path),), 1, join=False, start_method=start_method
    ) as context:
        stage = Stage(str(tmp_path), 60)
        stage.await_cue("saver")
        context.terminate()
    assert (tmp_path / "saved").exists()


def start_cleaner(rank: int, folder: str) -> None:
    program = str(PROGRAMS / "cleans_up_after_rank.py")
    subprocess.Popen([sys.executable, program, folder, str(rank), str(os.getpid())])
    stage = Stage(folder, 60)
    for other in range(2):
        stage.await_cue(f"cleaner {other}")
    if rank == 1:
        raise ValueError("boom")
    time.sleep(60)


def start_saver(rank: int, folder: str) -> None:
    subprocess.Popen([sys.executable, str(PROGRAMS / "saves_at_sigterm.py"), folder])
    time.sleep(60)
