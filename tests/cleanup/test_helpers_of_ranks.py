"""A stop signals ranks, and leaves what cleans up after them to do so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from procession import ProcessRaisedException, start_processes
from procession.testing.scratch import Stage, is_gone


def test_what_a_rank_started_and_cleans_up_after_it_is_left_to_do_so(
    start_method: str, tmp_path: Path
) -> None:
    """As torch_shm_manager does, which stays in the rank's group and would die of SIGTERM."""
    with pytest.raises(ProcessRaisedException):
        start_processes(start_cleaner, (str(tmp_path),), 2, start_method=start_method)
    for rank in range(2):
        assert (tmp_path / f"cleaned {rank}").exists()
        assert is_gone(int((tmp_path / f"cleaner {rank}").read_text()))


def test_what_a_rank_started_gets_sigterm_where_it_has_a_handler(
    start_method: str, tmp_path: Path
) -> None:
    with start_processes(
        start_saver, (str(tmp_path),), 1, join=False, start_method=start_method
    ) as context:
        stage = Stage(str(tmp_path), 60)
        stage.await_cue("saver")
        context.terminate()
    assert (tmp_path / "saved").exists()


CLEANER = """
import os, pathlib, sys, time
folder, rank = sys.argv[1:]
pathlib.Path(folder, f".{rank}").write_text(str(os.getpid()))
os.rename(f"{folder}/.{rank}", f"{folder}/cleaner {rank}")
while os.getppid() == int(os.environ["OF_RANK"]):
    time.sleep(0.01)
pathlib.Path(folder, f"cleaned {rank}").touch()
"""

SAVER = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "saver").touch()
time.sleep(60)
"""


def start_cleaner(rank: int, folder: str) -> None:
    env = {**os.environ, "OF_RANK": str(os.getpid())}
    subprocess.Popen([sys.executable, "-c", CLEANER, folder, str(rank)], env=env)
    stage = Stage(folder, 60)
    for other in range(2):
        stage.await_cue(f"cleaner {other}")
    if rank == 1:
        raise ValueError("boom")
    time.sleep(60)


def start_saver(rank: int, folder: str) -> None:
    subprocess.Popen([sys.executable, "-c", SAVER, folder])
    time.sleep(60)
