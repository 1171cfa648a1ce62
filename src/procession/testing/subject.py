"""The backend under test, and the calls by which the kit starts ranks with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from procession.api import run, start_processes
from procession.context import ProcessContext
from procession.exceptions import ProcessException
from procession.protocol import Backend, Capabilities, Launch, Started
from procession.testing.own_process import InOwnProcess, tests_run_here
from procession.testing.scratch import Stage
from procession.testing.times import patience

DEADLINE = 60.0
"""Seconds after which a launch that has not ended fails its test."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend, the options of its launches, and a folder that its ranks see too.

    ``here`` says that the ranks of a remote backend run on this machine.
    """

    backend: Backend
    options: Mapping[str, Any]
    folder: Path
    here: bool = False

    def __post_init__(self) -> None:
        tests_run_here()

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities that the backend claims."""
        return self.backend.capabilities

    @property
    def stage(self) -> Stage:
        """The folder in which ranks leave cues."""
        return Stage(str(self.folder), 0)

    def need(self, *capabilities: str) -> None:
        """Skip the test unless the backend claims all these capabilities."""
        for name in capabilities:
            if not getattr(self.capabilities, name):
                pytest.skip(f"not claimed: {name}")

    def need_local(self) -> None:
        """Skip the test if ranks run, or may run, on another host."""
        if self.capabilities.remote and not self.here:
            pytest.skip("ranks may be remote")

    def need_pickling(self) -> None:
        """Skip the test if the backend passes fn and args without pickling them."""
        if self.capabilities.by_reference:
            pytest.skip("claimed: by_reference")

    def launch(self, fn: Callable[..., object], *args: object, nprocs: int = 2) -> Launch:
        """Return a launch as the core would pass it to the backend."""
        return Launch(
            InOwnProcess(fn, str(self.folder)),
            args,
            nprocs,
            self.backend.name,
            environments=tuple({} for _ in range(nprocs)),
            options=self.options,
        )

    def start_alone(self, fn: Callable[..., object], *args: object, nprocs: int = 2) -> Started:
        """Start ranks without the core's supervision."""
        return self.backend.start(self.launch(fn, *args, nprocs=nprocs))

    def start(
        self, fn: Callable[..., object], *args: object, nprocs: int = 2, **keywords: Any
    ) -> ProcessContext:
        """Start ranks and return their context."""
        defaults = {"timeout": DEADLINE, "options": self.options, "collect_results": True}
        keywords = {**defaults, **keywords}
        call = InOwnProcess(fn, str(self.folder))
        context: ProcessContext = start_processes(
            call, args, nprocs, join=False, start_method=self.backend, **keywords
        )
        return context

    def run(
        self, fn: Callable[..., Any], *args: object, nprocs: int = 2, **keywords: Any
    ) -> list[Any]:
        """Run ranks to their end and return their results."""
        keywords = {"timeout": DEADLINE, "options": self.options, **keywords}
        call = InOwnProcess(fn, str(self.folder))
        return run(call, list(args), nprocs, start_method=self.backend, **keywords)

    def fail(
        self, fn: Callable[..., object], *args: object, nprocs: int = 2, **keywords: Any
    ) -> ProcessException:
        """Run ranks that must fail, and return the exception."""
        keywords = {"timeout": DEADLINE, "options": self.options, **keywords}
        call = InOwnProcess(fn, str(self.folder))
        with pytest.raises(ProcessException) as caught:
            start_processes(call, args, nprocs, start_method=self.backend, **keywords)
        return caught.value

    def await_cue(self, cue: str) -> str:
        """Return the text of a cue once a rank has given it."""
        return str(wait_until(lambda: self.stage.read(cue), f"no rank has given the cue {cue!r}"))


def wait_until(condition: Callable[[], Any], otherwise: str, seconds: float = 30.0) -> Any:
    """Return the condition's result once it is neither None nor False; fail after a time (`patience`)."""
    until = time.monotonic() + patience(seconds)
    while (found := condition()) is None or found is False:
        if time.monotonic() > until:
            pytest.fail(otherwise)
        time.sleep(0.002)
    return found
