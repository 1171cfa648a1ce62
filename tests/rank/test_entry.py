"""What backends ask of ranks beyond fn: an entry that runs first, and an exit barrier."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    run,
    start_processes,
)
from scripts import run_program
from through import Through

seen: list[object] = []


def greet(rank: int, folder: str) -> Callable[[bool], None]:
    seen.append((rank, folder, os.environ.get("FLAVOUR")))

    def leave(succeeded: bool) -> None:
        Path(folder, f"left {rank}").write_text(str(succeeded))

    return leave


def look(rank: int) -> object:
    return seen[-1]


def fail(rank: int) -> None:
    raise ValueError(f"of rank {rank}")


def test_the_entry_runs_before_fn_and_what_it_returns_after(
    start_method: str, tmp_path: Path
) -> None:
    backend = Through(start_method, ("test_entry:greet", str(tmp_path)))
    found = run(look, nprocs=2, start_method=backend, env={"FLAVOUR": "salt"})
    assert found == [(rank, str(tmp_path), "salt") for rank in range(2)]
    assert [(tmp_path / f"left {rank}").read_text() for rank in range(2)] == ["True", "True"]


def test_what_the_entry_returns_learns_of_a_failure(start_method: str, tmp_path: Path) -> None:
    backend = Through(start_method, ("test_entry:greet", str(tmp_path)))
    with pytest.raises(ProcessRaisedException, match="of rank 0"):
        start_processes(fail, nprocs=1, start_method=backend)
    assert (tmp_path / "left 0").read_text() == "False"


def test_an_entry_that_raises_is_the_ranks_failure(start_method: str) -> None:
    backend = Through(start_method, ("test_entry:fail_first", None))
    with pytest.raises(ProcessRaisedException, match="LookupError: None"):
        start_processes(look, nprocs=1, start_method=backend)


def fail_first(rank: int, argument: object) -> None:
    raise LookupError(argument)


def test_what_the_entry_returns_may_fail_the_rank(
    start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = Through(start_method, ("test_entry:fail_last", None))
    with pytest.raises(ProcessExitedException, match="exit code 1") as caught:
        start_processes(look, nprocs=1, start_method=backend)
    assert caught.value.failures[0].message == "after its function had returned"
    assert "LookupError: at the end" in capfd.readouterr().err


def fail_last(rank: int, argument: object) -> Callable[[bool], None]:
    seen.append("entered")

    def leave(succeeded: bool) -> None:
        raise LookupError("at the end")

    return leave


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_the_entry_is_imported_before_the_main_module(
    tmp_path: Path, start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.py").write_text(
        "import multiprocessing\ndef nothing(rank, argument): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert run_program("came_before_main_module.py", start_method).stdout == "[True]\n"


@pytest.mark.parametrize("preloads", [True, False])
def test_a_forkserver_leaves_the_callers_modules_to_the_ranks(
    tmp_path: Path, preloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(
        "import os\nwhere = os.getpid()\n\ndef tell(rank):\n    return where != os.getpid()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = run_program("imported_in_ranks.py", str(preloads))
    assert done.stdout == f"[{preloads}] [{preloads}]\n"


def test_preload_main_is_a_bool() -> None:
    with pytest.raises(TypeError, match=r"options\['preload_main'\] must be a bool, not 0"):
        run(look, start_method="forkserver", options={"preload_main": 0})


@pytest.mark.parametrize("rank_that_returns_at_once", [0, 1])
def test_ranks_wait_for_each_other_at_the_exit_barrier(
    start_method: str, tmp_path: Path, rank_that_returns_at_once: int
) -> None:
    backend = Through(start_method, ("test_entry:greet", str(tmp_path)), exit_barrier=True)
    args = (rank_that_returns_at_once, str(tmp_path))
    with start_processes(
        work_unless, args, 2, join=False, collect_results=True, start_method=backend
    ) as context:
        await_file(tmp_path / f"returned {rank_that_returns_at_once}")
        assert not context.wait(0.2)
        assert all(process.is_alive() for process in context.processes)
        assert not list(tmp_path.glob("left *"))
        (tmp_path / "stop").touch()
        context.wait()
        assert context.results() == [0, 1]
    assert len(list(tmp_path.glob("left *"))) == 2


def await_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def work_unless(rank: int, quick: int, folder: str) -> int:
    if rank != quick:
        await_file(Path(folder, "stop"))
    Path(folder, f"returned {rank}").touch()
    return rank


def test_a_rank_at_the_exit_barrier_is_stopped_if_another_fails(
    start_method: str, tmp_path: Path
) -> None:
    backend = Through(start_method, exit_barrier=True)
    with pytest.raises(ProcessRaisedException, match="of rank 1") as caught:
        start_processes(fail_second, (str(tmp_path),), 2, start_method=backend)
    assert caught.value.error_index == 1
    assert all(one.collateral for one in caught.value.failures[1:])


def fail_second(rank: int, folder: str) -> None:
    if rank == 1:
        await_file(Path(folder, "first"))
        fail(rank)
    Path(folder, "first").touch()


def test_a_process_that_a_rank_forked_does_not_hold_up_the_exit_barrier(start_method: str) -> None:
    backend = Through(start_method, exit_barrier=True)
    start_processes(fork_and_return, nprocs=2, start_method=backend)


def fork_and_return(rank: int) -> None:
    if os.fork() == 0:
        time.sleep(60)  # the launch ends it
        os._exit(0)


def test_threads_of_a_rank_can_start_ranks(start_method: str) -> None:
    backend = Through(start_method, exit_barrier=True)
    assert run(start_in_thread, nprocs=1, start_method=backend, timeout=60) == [[0]]


def start_in_thread(rank: int) -> list[int]:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(run(abs, start_method="spawn")))
    thread.start()
    thread.join()
    return found


def test_launches_from_threads_do_not_wait_for_each_other(start_method: str) -> None:
    backend = Through(start_method, exit_barrier=True)
    first = start_processes(wait_for_word, nprocs=2, join=False, start_method=backend)
    threads = [
        threading.Thread(
            target=start_processes, args=(abs, (), 2), kwargs={"start_method": backend}
        )
        for _ in range(8)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # fork warns about other threads
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    with first:
        assert not first.wait(0)


def wait_for_word(rank: int) -> None:
    time.sleep(60)


def test_the_exit_barrier_needs_no_supervision(start_method: str) -> None:
    backend = Through(start_method, exit_barrier=True)
    context = start_processes(abs, nprocs=2, join=False, start_method=backend)
    for process in context.processes:
        process.join(60)
    assert [process.exitcode for process in context.processes] == [0, 0]
    context.wait()


def test_ranks_that_exit_pass_the_exit_barrier(start_method: str, tmp_path: Path) -> None:
    backend = Through(start_method, exit_barrier=True)
    start_processes(exit_or_leave, (0,), 3, start_method=backend)
    start_processes(exit_or_leave, (1,), 3, start_method=backend, allow_early_exit=True)


def exit_or_leave(rank: int, early: int) -> None:
    if rank == 1:
        os._exit(0) if early else sys.exit(0)


@pytest.mark.parametrize("base", ["fork", "forkserver"])
def test_the_module_of_the_entry_is_imported_once_for_all_ranks(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "once.py").write_text(
        "import os\nwhere = os.getpid()\ndef nothing(rank, argument): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = Through(base, ("once:nothing", None))
    imported_in = run(tell_where, nprocs=2, start_method=backend)
    assert len(set(imported_in)) == 1
    sys.modules.pop("once", None)


def tell_where(rank: int) -> int:
    where: int = sys.modules["once"].where
    assert where != os.getpid()
    return where
