"""Bad input is named before anything starts, and a launch starts whole or not at all.

Promises: All ranks start, or none; Bad input is named before anything starts.
"""

from __future__ import annotations

import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import get_context, run, start_processes
from scripts import PROGRAMS, run_program, start


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"nprocs": 0}, ValueError, "nprocs must be at least 1, not 0"),
        ({"nprocs": -1}, ValueError, "nprocs must be at least 1, not -1"),
        ({"nprocs": True}, TypeError, "nprocs must be an int, not the bool True"),
        ({"nprocs": 1.5}, TypeError, "nprocs must be an int, not float 1.5"),
        ({"nprocs": "2"}, TypeError, "nprocs must be an int, not str '2'"),
        ({"args": 5}, TypeError, r"args must be a tuple or list .* write args=\(value,\)"),
        ({"args": "text"}, TypeError, "args must be a tuple or list"),
        ({"args": {"a": 1}}, TypeError, "args must be a tuple or list"),
        ({"fn": None}, TypeError, "fn must be callable"),
        ({"env": 5}, TypeError, "env must be a mapping"),
        ({"env": {"A": 1}}, TypeError, "env must map str to str"),
        ({"env": {"A=B": "1"}}, ValueError, "env has a name or value that no environment"),
        ({"env": lambda place: [place]}, TypeError, "return one for rank 0, not list"),
        ({"timeout": -1}, ValueError, "timeout must not be negative"),
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds or None, not str"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"grace_period": True}, TypeError, "grace_period must be a number of seconds"),
        ({"options": {"nonsense": 1}}, ValueError, "does not know 'nonsense'"),
        ({"options": ["preload"]}, TypeError, "options must be a mapping or None, not list"),
        ({"start_method": "spwan"}, ValueError, r"spwan.*spawn"),
        ({"start_method": 5}, TypeError, "start_method"),
    ],
)
def test_bad_input_is_named(
    start_method: str, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    call: dict[str, Any] = {"fn": ranks.nothing, "start_method": start_method, **arguments}
    with pytest.raises(error, match=text):
        start_processes(**call)
    with pytest.raises(error, match=text):
        run(**call)


def test_nprocs_may_be_an_integer_of_numpy(start_method: str) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    assert run(ranks.give, nprocs=numpy.int64(2), start_method=start_method) == [(0,), (1,)]


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_the_part_that_cannot_be_pickled_is_named(start_method: str) -> None:
    with pytest.raises(ValueError, match="raised while pickled") as caught:
        start_processes(ranks.give, (1, ranks.RaisesOnDump()), 2, start_method=start_method)
    assert "args[1] (RaisesOnDump) cannot be pickled" in text_of(caught.value)
    with pytest.raises((pickle.PicklingError, TypeError)) as other:
        start_processes(partial(print, (n for n in range(3))), nprocs=2, start_method=start_method)
    assert "fn (partial) cannot be pickled" in text_of(other.value)


def text_of(error: BaseException) -> str:
    return "\n".join([str(error), *ranks.notes_on(error)])


def test_fork_needs_no_pickle() -> None:
    value = object()
    assert run(lambda rank, one: one is value, (value,), 2, start_method="fork") == [True, True]


@pytest.mark.parametrize("failing", [0, 1, 3])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_start_that_fails_at_any_rank_leaves_none(
    start_method: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`os.pidfd_open` succeeds for the ranks before the one that fails."""
    pids: list[int] = []
    real = os.pidfd_open

    def fail_once(pid: int) -> int:
        pids.append(pid)
        if len(pids) == failing + 1:
            raise OSError(24, "Too many open files")
        return real(pid)

    start_processes(ranks.nothing, start_method=start_method)
    monkeypatch.setattr(os, "pidfd_open", fail_once)
    with pytest.raises(OSError, match="Too many open files") as caught:
        start_processes(ranks.work, nprocs=4, start_method=start_method)
    assert caught.value.errno == 24
    assert f"while starting rank {failing} of 4" in text_of(caught.value)
    for pid in pids[: failing + 1]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_running_out_of_descriptors_leaves_no_rank(start_method: str) -> None:
    done = run_program("runs_into_a_limit.py", start_method, "RLIMIT_NOFILE", "64")
    assert "Too many open files" in done.stdout
    assert "while starting rank" in done.stdout or "descriptors" in done.stdout
    stays = {"fork": 1, "spawn": 2, "forkserver": 3}  # reaper, resource tracker, forkserver
    assert f"children: {stays[start_method]}" in done.stdout


def test_25_ranks_fit_into_64_descriptors(start_method: str) -> None:
    run_program("has_few_descriptors.py", start_method)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without processes")
@pytest.mark.parametrize("start_method", ["fork"])  # the user nobody cannot run every interpreter
def test_running_out_of_processes_leaves_no_rank(start_method: str) -> None:
    done = run_program("runs_into_a_limit.py", start_method, "RLIMIT_NPROC", "6")
    assert "BlockingIOError" in done.stdout
    assert "while starting rank" in done.stdout
    assert "children: 1" in done.stdout  # the reaper


@pytest.mark.parametrize("start_method", ["spawn"])
def test_a_main_module_without_a_guard_is_reported(start_method: str) -> None:
    done = run_program("lacks_the_guard.py", start_method, check=False)
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr
    assert "ProcessRaisedException" in done.stderr


def test_a_main_module_that_raises_in_ranks_is_reported() -> None:
    done = run_program("raises_where_ranks_import_it.py", check=False)
    assert "-- Process 0 terminated with the following error" in done.stderr or (
        "-- Process 1 terminated with the following error" in done.stderr
    )
    assert "ValueError: only in ranks" in done.stderr


PRINTS_RANKS = (PROGRAMS / "prints_ranks.py").read_text()


@pytest.mark.parametrize("how", ["-c", "-"])
def test_functions_of_a_main_without_a_file_go_by_value(
    start_method: str, how: str, tmp_path: Path
) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    command = ("-c", PRINTS_RANKS) if how == "-c" else ("-",)
    done = start(tmp_path, *command, start_method, input=PRINTS_RANKS if how == "-" else None)
    assert done.stdout == "[0, 1]\n", done.stderr


def test_lambdas_of_a_main_without_a_file_go_by_value(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    code = "from procession import run; print(run(lambda rank: rank, nprocs=2, start_method={!r}))"
    assert start(tmp_path, "-c", code.format(start_method)).stdout == "[0, 1]\n"


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_without_cloudpickle_the_error_names_both_remedies(
    start_method: str, tmp_path: Path
) -> None:
    done = start(tmp_path, "-c", PRINTS_RANKS, start_method, cloudpickle="without")
    assert done.returncode == 1
    assert "pip install cloudpickle" in done.stderr
    assert "start_method='fork'" in done.stderr


def test_functions_of_a_module_run_by_name(start_method: str, tmp_path: Path) -> None:
    shutil.copy(PROGRAMS / "prints_ranks.py", tmp_path / "script.py")
    done = start(tmp_path, "-m", "script", start_method)
    assert done.stdout == "[0, 1]\n", done.stderr


def test_a_launch_costs_two_descriptors_a_rank(start_method: str) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    queue = get_context(start_method).SimpleQueue()
    start_processes(ranks.put, (queue,), 1, start_method=start_method)
    before = count()
    with start_processes(ranks.work, nprocs=8, join=False, start_method=start_method):
        few = count()
    with start_processes(ranks.work, nprocs=24, join=False, start_method=start_method):
        many = count()
    assert many - few <= 2 * 16
    assert few - before <= 2 * 8 + 5  # a selector, a wake-up pipe, a server's socket
    queue.close()
