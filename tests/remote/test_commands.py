"""`procession.commands` starts ranks as commands, for backends of other authors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    Availability,
    Launch,
    ProcessRaisedException,
    Started,
    run,
    start_processes,
)
from procession.commands import CAPABILITIES, Command, availability, start_commands
from procession.testing.scratch import state_of

Start = Callable[[Command], "subprocess.Popen[Any]"]


class CommandBackend:
    name = "command"
    protocol_version = 1
    capabilities = CAPABILITIES

    def __init__(self, start: Start) -> None:
        self._start = start

    def availability(self) -> Availability:
        return availability()

    def start(self, launch: Launch) -> Started:
        return start_commands(launch, self._start)


def popen(command: Command, *prefix: str) -> subprocess.Popen[Any]:
    return subprocess.Popen([*prefix, *command.argv], env=command.env, pass_fds=command.pass_fds)


def test_a_command_runs_this_interpreter_with_the_environment_of_its_rank() -> None:
    seen: list[Command] = []

    def start(command: Command) -> subprocess.Popen[Any]:
        seen.append(command)
        return popen(command)

    results = run(
        ranks.give,
        ("a",),
        2,
        start_method=CommandBackend(start),
        env=lambda place: {"OF": str(place.rank)},
    )
    assert results == [(0, "a"), (1, "a")]
    assert [(one.rank, one.argv[0], one.env["OF"]) for one in seen] == [
        (0, sys.executable, "0"),
        (1, sys.executable, "1"),
    ]


SHELL = 'sleep 60 & echo $! > "$0.new"; mv "$0.new" "$0"; exec "$@"'


def test_a_process_that_the_prefix_of_a_rank_started_ends_with_the_rank(tmp_path: Path) -> None:
    """The process exists before its launch marks the rank."""
    note = tmp_path / "pid"

    def start(command: Command) -> subprocess.Popen[Any]:
        started = popen(command, "sh", "-c", SHELL, str(note))
        while not note.exists():
            time.sleep(0.001)
        return started

    with pytest.raises(ProcessRaisedException):
        start_processes(ranks.fail_in, (0, "ValueError"), start_method=CommandBackend(start))
    assert state_of(int(note.read_text())) in "XZ"


def test_no_rank_is_left_if_a_command_cannot_be_started() -> None:
    started: list[int] = []

    def start(command: Command) -> subprocess.Popen[Any]:
        one = popen(command, *(["no-such-program"] if command.rank == 2 else []))
        started.append(one.pid)
        return one

    with pytest.raises(FileNotFoundError) as caught:
        start_processes(ranks.work, nprocs=4, start_method=CommandBackend(start))
    if sys.version_info >= (3, 11):  # in 3.10 only our own exceptions have notes
        assert ranks.notes_on(caught.value) == ["while starting rank 2 of 4; none is left running"]
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_commands_are_unavailable_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    from procession import commands

    monkeypatch.setattr(commands, "missing_mechanism", lambda: "there are no pidfds")
    assert availability() == Availability(False, "there are no pidfds", "use 'spawn'")
