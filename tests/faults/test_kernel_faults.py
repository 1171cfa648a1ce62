"""What only the kernel does to a rank: freeze it, so that SIGKILL does not end it, or kill it for memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ranks
from procession import ProcessExitedException, ProcessRaisedException, get_context, start_processes
from procession.testing.times import patience
from scripts import run_program

pytestmark = pytest.mark.faults


def make_cgroup(controller: str) -> Path | None:
    """Return a new cgroup of version 1; None if this process cannot make one."""
    path = Path("/sys/fs/cgroup", controller, f"procession-test-{os.getpid()}")
    try:
        path.mkdir()
    except OSError:
        return None
    return path


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup whose processes can be frozen; thawed and removed afterwards."""
    path = make_cgroup("freezer")
    if path is None or not (path / "freezer.state").exists():
        pytest.skip("no freezer of cgroup version 1 is mounted here that we may write")
    yield path
    (path / "freezer.state").write_text("THAWED")
    remove(path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A cgroup with a limit of 64 MiB."""
    path = make_cgroup("memory")
    if path is None or not (path / "memory.limit_in_bytes").exists():
        pytest.skip("no memory controller of cgroup version 1 is mounted here that we may write")
    (path / "memory.limit_in_bytes").write_text(str(64 << 20))
    yield path
    remove(path)


def remove(path: Path) -> None:
    until = time.monotonic() + patience(5)
    while True:
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.01)
        else:
            return


@pytest.mark.leaves_things  # the frozen rank, until the fixture thaws it
def test_a_rank_that_nothing_ends_is_named_and_abandoned(start_method: str, freezer: Path) -> None:
    event = get_context(start_method).Event()
    context = start_processes(
        work_or_fail, (event,), 2, join=False, start_method=start_method, grace_period=0.2
    )
    pid = context.processes[0].pid
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    while (freezer / "freezer.state").read_text() != "FROZEN\n":
        time.sleep(0.001)
    event.set()
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="boom") as caught:
        context.wait()
    assert time.monotonic() - begun < 10  # twice the grace period, KILL_WAIT, marks.PATIENCE
    assert f"pid {pid} could not be killed; its state is D" in "".join(ranks.notes_on(caught.value))
    assert [one.kind for one in caught.value.failures] == ["raised", "lost"]


def work_or_fail(rank: int, event: object) -> None:
    if rank == 1:
        event.wait()  # type: ignore[attr-defined]
        raise ValueError("boom")
    ranks.work(rank)


def test_an_oom_kill_is_reported_with_its_evidence(start_method: str, memory: Path) -> None:
    done = run_program("runs_out_of_memory.py", start_method, str(memory / "cgroup.procs"))
    first, second = done.stdout.splitlines()
    assert first == "1 SIGKILL"
    assert second == (
        "the kernel's OOM killer was at work meanwhile: "
        f"oom_kill in {memory / 'memory.oom_control'} went from 0 to 1"
    )


def test_a_kill_by_hand_is_reported_as_such(start_method: str) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(ranks.fail_in, (0, "SIGKILL"), start_method=start_method)
    assert "OOM" in caught.value.failures[0].evidence
