"""P1 to P7: whatever goes wrong in a rank, its caller learns the cause, soon, and nothing is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from faultcases import CASES, RANKS, Case, play
from faultstage import Stage, state_of
from procession import (
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    get_backend,
    start_processes,
)

GRACE = 1.0
"""Seconds before SIGKILL in the cases where a rank makes it necessary."""

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("name", CASES)
def test_rank_fault(start_method: str, name: str, tmp_path: Path) -> None:
    case = CASES[name]
    skip_what_is_not_claimed(case, start_method)
    tmp_path.chmod(0o777)
    begun = time.monotonic()
    error = launch(case, name, start_method, tmp_path)
    took = time.monotonic() - begun
    assert_told(case, error)
    assert took < case.seconds + GRACE * case.stubborn
    assert_gone(Stage(str(tmp_path), 0).noted())


def skip_what_is_not_claimed(case: Case, start_method: str) -> None:
    capabilities = get_backend(start_method).capabilities
    for need in case.needs:
        if need == "root" and os.getuid() != 0:
            pytest.skip("only root can become nobody")
        if need != "root" and not getattr(capabilities, need):
            pytest.skip(f"start method {start_method!r} does not claim the capability {need!r}")


def launch(case: Case, name: str, start_method: str, folder: Path) -> ProcessException | None:
    """Play a case; return what its caller was told."""
    try:
        start_processes(
            play,
            (name, str(folder)),
            RANKS,
            start_method=start_method,
            options={"fork_check": "off"} if start_method == "fork" else None,
            grace_period=GRACE if case.stubborn else None,
        )
    except ProcessException as error:
        return error
    return None


def assert_told(case: Case, error: ProcessException | None) -> None:
    """Compare what the caller was told with what there was to tell."""
    if case.outcome == "ok":
        assert error is None
        return
    assert error is not None
    assert error.error_index == 1
    assert len(error.msg) < 64 * 1024
    root, *others = error.failures
    assert (root.rank, root.kind, root.pid) == (1, case.outcome, error.error_pid)
    assert all(other.collateral or other.message == "secondary" for other in others)
    if case.outcome == "raised":
        assert isinstance(error, ProcessRaisedException)
        assert error.msg.startswith("\n\n-- Process 1 terminated with the following error:\n")
        assert case.text in error.msg
    else:
        assert isinstance(error, ProcessExitedException)
        assert (error.exit_code, error.signal_name) == (case.code, case.signal_name)
        ending = f"signal {case.signal_name}" if case.signal_name else f"exit code {case.code}"
        assert error.msg == f"process 1 terminated with {ending}"
        assert case.text in root.message


def assert_gone(pids: list[int]) -> None:
    """Fail if one of these processes still runs; a kill takes effect a little after it."""
    until = time.monotonic() + 2
    while left := [pid for pid in pids if state_of(pid) not in "XZ"]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.002)
