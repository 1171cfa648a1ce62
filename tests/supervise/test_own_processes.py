"""``ProcessContext(processes, error_files)`` of processes that the caller has started, as in torch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    SpawnContext,
)
from procession._supervise.caller_processes import ErrorFile


@pytest.mark.parametrize("how", ["well", "raises", "exits", "killed"])
@pytest.mark.parametrize("kind", ["ProcessContext", "SpawnContext", "a subclass"])
def test_a_context_of_processes_that_the_caller_has_started(
    tmp_path: Path, kind: str, how: str
) -> None:
    """As torch does, it has a file for each, into which torch's `_wrap` pickles the traceback."""

    class Mine(ProcessContext):
        def __init__(self, processes: Any, error_files: Any) -> None:
            super().__init__(processes, error_files)
            self.mine = True

    files = [str(tmp_path / str(rank)) for rank in range(2)]
    mp_context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        processes = [
            mp_context.Process(target=act_like_torch, args=(rank, how, files[rank]))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        made = {"ProcessContext": ProcessContext, "SpawnContext": SpawnContext}.get(kind, Mine)
        context = made(processes, files)
    assert context.pids() == [process.pid for process in processes]
    assert list(context.processes) == processes
    if how == "well":
        assert context.wait()
        return
    expected = ProcessRaisedException if how == "raises" else ProcessExitedException
    with pytest.raises(expected) as caught:
        join_all(context)
    assert caught.value.error_index == 1
    text = {"raises": "ValueError: boom", "exits": "exit code 3", "killed": "SIGKILL"}[how]
    assert text in str(caught.value)
    assert processes[0].exitcode == -signal.SIGTERM


def join_all(context: ProcessContext) -> None:
    while not context.join():
        pass


def act_like_torch(rank: int, how: str, path: str) -> None:
    if how == "well":
        return
    if rank == 0:
        ranks.work(rank)
    if how == "exits":
        sys.exit(3)
    if how == "killed":
        ranks.kill_self(signal.SIGKILL)
    try:
        raise ValueError("boom")
    except ValueError:
        with open(path, "wb") as file:
            pickle.dump(traceback.format_exc(), file)
        sys.exit(1)


def test_an_error_file_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "error"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EOFError):
        ErrorFile(path).receive()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([object()], ["path"]), TypeError, r"processes\[0\] has no pid, sentinel"),
        (([], ["path"]), ValueError, "0 processes, and 1 error_files"),
    ],
)
def test_bad_processes_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProcessContext(*arguments)
