"""Processes of a context have the attributes of multiprocessing; errors of daemonic callers say what helps.

Promise: torch's contract holds.
"""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

import ranks
import standin
from procession import ProcessContext, ProcessExitedException, run, start_processes
from procession.testing.subject import wait_until

METHODS = ("fork", "spawn", "forkserver", "command")


def work(rank: int, path: str) -> None:
    Path(path).touch()
    ranks.work(rank)


@pytest.fixture(params=METHODS)
def working(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A context with a rank that runs its function."""
    path = tmp_path / "works"
    options = standin.options() if request.param == "command" else None
    context = start_processes(
        work, (str(path),), join=False, start_method=str(request.param), options=options
    )
    wait_until(path.exists, "the rank has not begun")
    yield context
    context.terminate()


def list_public(item: object) -> set[str]:
    return {name for name in dir(item) if not name.startswith("_")}


def test_processes_have_the_attributes_of_multiprocessing(working: ProcessContext) -> None:
    (process,) = working.processes
    wanted = list_public(multiprocessing.Process()) - {"start", "run"}  # it has started already
    assert wanted | {"interrupt"} <= list_public(process)  # Python 3.14 added interrupt


def test_the_attributes_say_which_process_it_is(working: ProcessContext) -> None:
    process: Any = working.processes[0]
    assert process.ident == process.pid == working.pids()[0]
    assert process.authkey == multiprocessing.current_process().authkey
    assert process.daemon is False
    assert re.search(r"Process-\d+$", process.name)
    process.name = "mine"
    assert process.name == "mine"
    assert "mine" in repr(process)


def test_a_process_that_runs_cannot_be_closed(working: ProcessContext) -> None:
    process: Any = working.processes[0]
    with pytest.raises(ValueError, match=r"Process-\d+ \(pid \d+\) cannot be closed while it runs"):
        process.close()
    process.kill()
    process.join()
    process.close()
    process.close()
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        working.join()
    assert process.exitcode == -9


def test_a_process_can_be_interrupted(working: ProcessContext) -> None:
    process: Any = working.processes[0]
    process.interrupt()
    process.join()
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        working.join()


def launch(*_: object) -> str:
    try:
        run(ranks.give, nprocs=1, start_method="fork")
    except AssertionError as error:
        return str(error)
    return "launched"


RULE = "daemonic processes are not allowed to have children: this one, "


def test_the_error_in_a_daemonic_rank_says_what_helps(start_method: str) -> None:
    (said,) = run(launch, nprocs=1, start_method=start_method, daemon=True)
    assert said.startswith(RULE)
    assert said.endswith("is daemonic; start its own launch without daemon=True")


def test_the_error_in_a_worker_of_a_pool_says_what_helps() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        said = pool.apply(launch)
    assert said.startswith(f"{RULE}'SpawnPoolWorker-")
    assert "those of concurrent.futures.ProcessPoolExecutor are not daemonic" in said


def test_the_error_in_a_daemonic_process_says_what_helps() -> None:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=send_launch, args=(writer,), daemon=True)
    process.start()
    said = reader.recv()
    process.join()
    for end in (reader, writer):
        end.close()
    process.close()
    assert said.startswith(f"{RULE}'SpawnProcess-")
    assert said.endswith("; start it without daemon=True")


def send_launch(writer: Any) -> None:
    writer.send(launch())


def test_the_text_of_a_process_says_whether_it_runs(start_method: str) -> None:
    context = start_processes(ranks.nothing, nprocs=1, join=False, start_method=start_method)
    context.wait()
    assert repr(context.processes[0]).endswith(f"pid={context.processes[0].pid} exitcode=0>")
    with start_processes(ranks.work, nprocs=1, join=False, start_method=start_method) as context:
        assert repr(context.processes[0]).endswith(f"pid={context.processes[0].pid} alive>")
