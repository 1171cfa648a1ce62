"""`Process.release` is called once, after the process has ended, and cannot change the outcome."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

import ranks
from procession import Launch, ProcessContext, ProcessRaisedException, Started, get_backend
from procession._launch.starting import abort_start


class Recording:
    """A rank's process that notes each `release`, and whether the rank was alive then."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.released: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def release(self) -> None:
        self.released.append(self.inner.is_alive())
        self.inner.release()


class ClosesTwice(Recording):
    """Closes a descriptor that is closed already."""

    def release(self) -> None:
        super().release()
        os.close(-1)


class Deaf(Recording):
    """Cannot be ended."""

    def terminate(self) -> None:
        pass

    kill = terminate


def start(start_method: str, kind: type[Recording], fn: Any, *args: Any, nprocs: int = 2) -> Any:
    options = {"fork_check": "off"} if start_method == "fork" else {}
    launch = Launch(fn, args, nprocs, start_method, environments=({},) * nprocs, options=options)
    started = get_backend(start_method).start(launch)
    return launch, started.replace(processes=[kind(one) for one in started.processes])


def releases(started: Started) -> Iterator[list[bool]]:
    return (process.released for process in started.processes)  # type: ignore[attr-defined]


def test_a_process_is_released_once_after_its_end(start_method: str) -> None:
    launch, started = start(start_method, Recording, ranks.nothing)
    context = ProcessContext._of_launch(launch, started)
    assert context.wait()
    assert context.wait()
    context.terminate()
    assert list(releases(started)) == [[False], [False]]


def test_what_is_stopped_is_released_once(start_method: str) -> None:
    launch, started = start(start_method, Recording, ranks.work)
    with ProcessContext._of_launch(launch, started):
        assert list(releases(started)) == [[], []]
    assert list(releases(started)) == [[False], [False]]


def test_what_cannot_be_ended_is_not_released_while_it_runs() -> None:
    """Nor is it released twice where it ends after all."""
    launch, started = start("spawn", Deaf, ranks.work, nprocs=1)
    started = started.replace(on_failure=None, on_finish=None)
    context = ProcessContext._of_launch(launch, started)
    context.terminate(0)
    assert list(releases(started)) == [[]]
    inner: Any = started.processes[0]
    inner.inner.kill()
    abort_start(started)
    assert list(releases(started)) == [[False]]


def test_what_ends_with_its_launch_is_released_though_no_signal_could_end_it() -> None:
    launch, started = start("spawn", Deaf, ranks.work, nprocs=1)
    ProcessContext._of_launch(launch, started).terminate(0)
    assert list(releases(started)) == [[False]]


def test_a_release_that_raises_is_logged(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "procession")
    launch, started = start(start_method, ClosesTwice, ranks.give, "a")
    assert ProcessContext._of_launch(launch, started).results() == [(0, "a"), (1, "a")]
    assert {record.getMessage() for record in caplog.records} == {
        f"release() of process {process.pid} has raised OSError: [Errno 9] Bad file descriptor"
        for process in started.processes
    }


def test_a_release_that_raises_hides_no_failure(start_method: str) -> None:
    launch, started = start(start_method, ClosesTwice, ranks.fail_in, 1, "ValueError")
    with pytest.raises(ProcessRaisedException):
        ProcessContext._of_launch(launch, started).wait()


def test_a_start_that_is_undone_releases_once(start_method: str) -> None:
    _, started = start(start_method, ClosesTwice, ranks.work)
    abort_start(started)
    assert list(releases(started)) == [[False], [False]]
