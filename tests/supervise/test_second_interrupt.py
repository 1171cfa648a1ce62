"""A second Ctrl-C ends ranks at once wherever it comes, also while the first one is being passed on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procession import Launch, ProcessContext, get_backend
from procession.testing import ranks

LONG = 60.0
"""Seconds of a grace period that nobody waits for."""


class InterruptedBy:
    """A process: Ctrl-C comes as a signal that is in ``numbers`` is sent to it, once."""

    def __init__(self, inner: Any, numbers: set[int]) -> None:
        self.inner, self.numbers = inner, numbers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def send_signal(self, number: int) -> None:
        self._meet(number)
        self.inner.send_signal(number)

    def terminate(self) -> None:
        self._meet(signal.SIGTERM)
        self.inner.terminate()

    def _meet(self, number: int) -> None:
        if number in self.numbers:
            self.numbers.remove(number)
            raise KeyboardInterrupt


def start(number: int, start_method: str, folder: Path) -> ProcessContext:
    options = {"fork_check": "off"} if start_method == "fork" else {}
    launch = Launch(
        ranks.ignore_termination,
        (str(folder),),
        2,
        start_method,
        environments=({}, {}),
        options=options,
        grace_period=LONG,
    )
    started = get_backend(start_method).start(launch)
    numbers = {number}
    processes = [InterruptedBy(one, numbers) for one in started.processes]
    return ProcessContext._of_launch(launch, started.replace(processes=processes))


def interrupt(context: ProcessContext) -> None:
    context.interrupt()


def terminate(context: ProcessContext) -> None:
    with pytest.raises(KeyboardInterrupt):
        context.terminate()


@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGINT, interrupt), (signal.SIGTERM, terminate)]
)
def test_an_interrupt_while_signals_are_sent_kills(
    number: int, stop: Callable[[ProcessContext], None], start_method: str, tmp_path: Path
) -> None:
    context = start(number, start_method, tmp_path)
    begun = time.monotonic()
    stop(context)
    assert context.wait()
    assert time.monotonic() - begun < LONG / 2
