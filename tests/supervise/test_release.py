"""`Process.release` is called once, after the process has ended, and cannot change the outcome."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import ranks
from procession import Launch, ProcessContext, ProcessRaisedException, Started, start_processes
from procession.testing.introspect import abort_start
from through import Wrapping


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


@dataclass
class Endless(Wrapping):
    """A backend whose launch ends no rank either."""

    def start(self, launch: Launch) -> Started:
        self.started.append(super().start(launch).replace(on_failure=None, on_finish=None))
        return self.started[-1]


def start(
    backend: Wrapping, fn: Callable[..., Any], *args: Any, nprocs: int = 2
) -> tuple[ProcessContext, Started]:
    """Start ranks whose processes are wrapped; return their context, and the wrapped processes."""
    context: ProcessContext = start_processes(
        fn, args, nprocs, join=False, start_method=backend, collect_results=True
    )
    return context, backend.started[-1]


def releases(started: Started) -> Iterator[list[bool]]:
    return (process.released for process in started.processes)  # type: ignore[attr-defined]


def test_a_process_is_released_once_after_its_end(start_method: str) -> None:
    context, started = start(Wrapping(start_method, wrap=Recording), ranks.nothing)
    assert context.wait()
    assert context.wait()
    context.terminate()
    assert list(releases(started)) == [[False], [False]]


def test_what_is_stopped_is_released_once(start_method: str) -> None:
    context, started = start(Wrapping(start_method, wrap=Recording), ranks.work)
    with context:
        assert list(releases(started)) == [[], []]
    assert list(releases(started)) == [[False], [False]]


def test_what_cannot_be_ended_is_not_released_while_it_runs() -> None:
    """Nor is it released twice where it ends after all."""
    context, started = start(Endless("spawn", wrap=Deaf), ranks.work, nprocs=1)
    context.terminate(0)
    assert list(releases(started)) == [[]]
    inner: Any = started.processes[0]
    inner.inner.kill()
    abort_start(started)
    assert list(releases(started)) == [[False]]


def test_what_ends_with_its_launch_is_released_though_no_signal_could_end_it() -> None:
    context, started = start(Wrapping("spawn", wrap=Deaf), ranks.work, nprocs=1)
    context.terminate(0)
    assert list(releases(started)) == [[False]]


def test_a_release_that_raises_is_logged(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "procession")
    context, started = start(Wrapping(start_method, wrap=ClosesTwice), ranks.give, "a")
    assert context.results() == [(0, "a"), (1, "a")]
    assert {record.getMessage() for record in caplog.records} == {
        f"release() of process {process.pid} has raised OSError: [Errno 9] Bad file descriptor"
        for process in started.processes
    }


def test_a_release_that_raises_hides_no_failure(start_method: str) -> None:
    backend = Wrapping(start_method, wrap=ClosesTwice)
    context, _ = start(backend, ranks.fail_in, 1, "ValueError")
    with pytest.raises(ProcessRaisedException):
        context.wait()


def test_a_start_that_is_undone_releases_once(start_method: str) -> None:
    options = {"fork_check": "off"} if start_method == "fork" else {}
    launch = Launch(ranks.work, (), 2, start_method, environments=({}, {}), options=options)
    started = Wrapping(start_method, wrap=ClosesTwice).start(launch)
    abort_start(started)
    assert list(releases(started)) == [[False], [False]]
