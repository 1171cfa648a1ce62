"""A rank that fails is named at once, and no rank is left, although the others wait in a collective."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import xla_ranks
from procession import ProcessException, start_processes
from procession.testing.outcomes import assert_gone
from procession.testing.subject import wait_until
from xla_scripts import on_each_base

CPU = {"platform": "cpu", "distributed": True}
HERE = Path(__file__).parent
SOON = 2.0
"""Seconds within which a failure during a collective is raised; `assert_gone` waits as long."""


def start(fn: Any, *args: object, nprocs: int = 2, **options: Any) -> Any:
    """Start connected ranks; return their context."""
    keywords: Any = {"start_method": "xla", "options": {**CPU, **options}, "timeout": 60}
    return start_processes(fn, args, nprocs, join=False, **keywords)


def fail(folder: Path, who: int, ending: str, nprocs: int, **options: Any) -> Any:
    """End a rank in a collective; return the exception, the pids and the seconds until the exception."""
    context = start(xla_ranks.end_in_collective, who, ending, str(folder), nprocs=nprocs, **options)
    with context, pytest.raises(ProcessException) as caught:
        context.wait()
    raised = time.monotonic()
    return caught.value, context.pids(), raised - float((folder / "when").read_text())


@on_each_base
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("ending", xla_ranks.ENDINGS)
def test_a_failure_in_a_collective_is_raised_soon(
    base: str, who: int, ending: str, tmp_path: Path
) -> None:
    error, pids, seconds = fail(tmp_path, who, ending, 2, base=base)
    assert (error.error_index, error.failures[0].rank) == (who, who)
    assert seconds < SOON
    assert_gone(pids)
    codes = {"sys.exit": 4, "os._exit": 3, "SIGKILL": -9, "SIGSEGV": -11}
    if ending == "raise":
        assert f"ValueError: of rank {who}" in str(error)
        assert "in end_in_collective" in str(error)
    else:
        assert error.exit_code == codes[ending]


def test_the_error_names_the_rank_that_was_killed(tmp_path: Path) -> None:
    """The error does not name the rank whose collective broke."""
    named = [fail(tmp_path, 2, "SIGKILL", 4)[0].error_index for _ in range(20)]
    assert named == [2] * 20


@pytest.mark.parametrize("who", [0, 3])
def test_the_error_names_the_killed_one_of_four_ranks(who: int, tmp_path: Path) -> None:
    error, pids, seconds = fail(tmp_path, who, "raise", 4)
    assert error.error_index == who
    assert seconds < SOON
    assert_gone(pids)


def test_ranks_whose_sigterm_jax_catches_are_killed(tmp_path: Path) -> None:
    """The preemption service of JAX catches it, so SIGKILL follows after the grace period."""
    context = start(xla_ranks.fail_while_another_sleeps, str(tmp_path), preemption_service=True)
    with context, pytest.raises(ProcessException, match="of rank 1") as caught:
        context.wait(grace_period=1)
    assert caught.value.failures[1].signal_name == "SIGKILL"
    assert_gone(context.pids())


@on_each_base
def test_ranks_that_wait_in_a_collective_show_stacks_and_can_be_stopped(
    base: str, tmp_path: Path
) -> None:
    with start(xla_ranks.wait_in_collective, str(tmp_path), base=base) as context:
        await_pids(tmp_path)
        stacks = context.dump_stacks()
        assert all("in wait_in_collective" in stacks[rank] for rank in range(2)), stacks
    assert_gone(context.pids())


def await_pids(folder: Path) -> list[int]:
    """Wait until two ranks have noted their pids, and return these."""
    files = [folder / f"pid.{rank}" for rank in range(2)]
    wait_until(lambda: all(f.exists() and f.read_text() for f in files), "no rank is there", 60)
    return [int(file.read_text()) for file in files]


CALLER = """
import signal, sys
import xla_ranks
from procession import start_processes

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests' shell does
try:
    start_processes(xla_ranks.wait_in_collective, (sys.argv[1],), 2, start_method="xla",
                    options={"platform": "cpu", "distributed": True, "base": sys.argv[2]})
except KeyboardInterrupt:
    sys.exit(77)
"""


@on_each_base
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ranks_in_a_collective_end_with_their_caller(
    base: str, number: int, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", CALLER, str(tmp_path), base]
    with subprocess.Popen(command, env=environment, start_new_session=True) as caller:
        pids = await_pids(tmp_path)
        os.killpg(caller.pid, number)
        assert_gone(pids)
        assert caller.wait(10) == (77 if number == signal.SIGINT else -number)
