"""The logger `procession` gets a line for each step of a launch; by default nothing is printed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ranks
from procession import ProcessRaisedException, run, start_processes
from scripts import run_program


def test_the_log_names_each_step(start_method: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "procession"):
        run(ranks.give, (), 2, start_method=start_method)
    text = "\n".join(caplog.messages)
    assert f"start method {start_method!r} is" in text
    assert f"give: started 2 ranks by {start_method}" in text
    for rank in range(2):
        assert f"give: rank {rank} returned" in text
        assert f"give: rank {rank} ended (0)" in text
    assert caplog.messages[-1] == "give: all ranks have ended and are reaped"


def test_a_failure_and_its_stop_are_in_the_log(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.DEBUG, "procession"),
        pytest.raises(ProcessRaisedException),
    ):
        run(ranks.fail_in, (1, "ValueError"), 2, start_method=start_method)
    text = "\n".join(caplog.messages)
    assert "fail_in: rank 1 raised" in text
    assert "fail_in: stopping ranks [0" in text


def execute(method: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a launch of two ranks in a process with these variables."""
    return run_program("prints_ranks.py", method, check=False, env={**os.environ, **variables})


def test_a_variable_prints_the_log_with_times(start_method: str) -> None:
    done = execute(start_method, PROCESSION_LOG="debug")
    assert done.stdout == "[0, 1]\n"
    lines = done.stderr.splitlines()
    assert len(lines) >= 6
    for line in lines:  # only the caller logs
        assert re.match(r"\d\d:\d\d:\d\d\.\d{3} procession: ", line), line


def test_nothing_is_printed_by_default(start_method: str) -> None:
    assert execute(start_method).stderr == ""


def test_an_unknown_level_is_an_error() -> None:
    done = execute("fork", PROCESSION_LOG="loud")
    assert "PROCESSION_LOG must be debug, info, warning or error, not 'loud'" in done.stderr


def test_the_command_line_follows_a_launch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "procession", "run", "--verbose", "-n", "2", "os:fspath", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "fspath: started 2 ranks by spawn" in done.stderr


def test_ranks_that_their_caller_stops_have_not_failed(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(12):  # two threads race
        context = start_processes(
            ranks.work, nprocs=2, join=False, start_method=start_method, supervise=True
        )
        context.terminate()
        assert context.wait()
    assert not [text for text in caplog.messages if "failed" in text]
