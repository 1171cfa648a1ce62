"""Launches that ask for a cgroup, on a real cgroup v2 that this process may write."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ranks
from callers import Caller
from procession import ProcessRaisedException, run, start_processes
from procession._cleanup import cgroups
from procession.testing.faults import start_session
from procession.testing.scratch import Stage, state_of
from procession.testing.times import patience


def is_delegated() -> bool:
    path = cgroups.locate(1)
    try:
        os.mkdir(path)
        os.rmdir(path)
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not is_delegated(), reason="cgroup v2 is not delegated to this process: it cannot make one"
)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make launches ask for a cgroup, and exclude other runs of these tests meanwhile."""
    monkeypatch.setenv("PROCESSION_CGROUP", "1")
    folder = os.open(Path(cgroups.locate(1)).parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    yield
    os.close(folder)


def list_cgroups() -> list[str]:
    return [str(path) for path in Path(cgroups.locate(1)).parent.glob("procession-*")]


def read_cgroup(rank: int) -> str:
    return Path("/proc/self/cgroup").read_text()


def test_ranks_of_a_launch_share_a_new_cgroup(start_method: str) -> None:
    first, second = run(read_cgroup, nprocs=2, start_method=start_method)
    assert first == second
    assert "/procession-" in first
    assert list_cgroups() == []
    assert "/procession-" not in read_cgroup(0)


def test_a_process_that_removed_its_mark_ends_too(start_method: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="boom"):
        start_processes(remove_mark_and_fail, (str(tmp_path),), 2, start_method=start_method)
    (pid,) = Stage(str(tmp_path), 0).noted()
    until = time.monotonic() + patience(2)
    while state_of(pid) not in "XZ":
        assert time.monotonic() < until
        time.sleep(0.002)
    assert list_cgroups() == []


def remove_mark_and_fail(rank: int, folder: str) -> None:
    if rank == 1:
        ranks.work(rank)
    from procession._cleanup import marks

    marks.spare(0)
    start_session(Stage(folder, 60))
    raise ValueError("boom")


def test_a_killed_caller_leaves_no_cgroup(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(tmp_path, start_method, "descendants")
    try:
        caller.await_ranks()
        assert len(list_cgroups()) == 1
        caller.process.send_signal(signal.SIGKILL)
        caller.assert_gone()
        until = time.monotonic() + patience(2)
        while list_cgroups():
            assert time.monotonic() < until
            time.sleep(0.002)
    finally:
        caller.close()


def test_nested_launches_leave_no_cgroup(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="the outer one"):
        start_processes(nest_and_fail, nprocs=1, start_method=start_method)
    assert list_cgroups() == []
    run(nest, start_method=start_method)
    assert list_cgroups() == []


def nest(rank: int) -> None:
    start_processes(ranks.nothing, start_method="fork")


def nest_and_fail(rank: int) -> None:
    start_processes(ranks.work, start_method="fork", join=False)
    raise ValueError("the outer one")


def test_daemons_that_are_kept_are_in_no_cgroup(start_method: str) -> None:
    (text,) = run(read_cgroup, start_method=start_method, keep_daemons=True)
    assert "/procession-" not in text


def test_a_bad_choice_and_a_missing_permission_raise(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "locate", lambda mark: "/proc/none")
    with pytest.raises(RuntimeError, match="PROCESSION_CGROUP=1, but this process cannot create"):
        run(read_cgroup, start_method=start_method)
    monkeypatch.setenv("PROCESSION_CGROUP", "yes")
    with pytest.raises(ValueError, match="PROCESSION_CGROUP must be 0 or 1, not 'yes'"):
        run(read_cgroup, start_method=start_method)
