"""A second Ctrl-C ends ranks at once whenever it comes, also while the first one is being forwarded."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procession import ProcessContext, start_processes
from procession.testing import ranks
from through import Wrapping

LONG = 60.0
"""A grace period longer than the test, in seconds."""


class InterruptedBy:
    """A process: the first time that a signal in ``numbers`` is sent to it, Ctrl-C comes as well."""

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
    numbers = {number}
    context: ProcessContext = start_processes(
        ranks.ignore_termination,
        (str(folder),),
        2,
        join=False,
        start_method=Wrapping(start_method, wrap=lambda one: InterruptedBy(one, numbers)),
        grace_period=LONG,
    )
    return context


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
