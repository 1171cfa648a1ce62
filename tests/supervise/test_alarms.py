"""A signal handler that raises while a report is received: its exception comes through, and no rank fails.

Promise: The cause reaches the caller.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import pytest

import ranks
from procession import start_processes
from procession._python.handler_errors import came_from_handler

FILES = ("rank_state.py", "channel.py", "messages.py", "wire.py")


class Alarm:
    """Raises SIGALRM at one line of what receives a report, the ``at``-th that this process comes to."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                sys.settrace(None)
                signal.raise_signal(signal.SIGALRM)
        return self


def raise_timeout(*_: object) -> None:
    raise TimeoutError("the caller's own")


@pytest.fixture
def _alarms() -> Any:
    previous = signal.signal(signal.SIGALRM, raise_timeout)
    yield
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.leaves_things  # a descriptor that was about to be closed
@pytest.mark.usefixtures("_alarms")
@pytest.mark.parametrize("part", range(3))
def test_an_alarm_at_every_line_of_a_receipt(part: int) -> None:
    lines = 70
    for at in range(1 + part, lines, 3):
        context = start_processes(
            ranks.give, nprocs=1, join=False, collect_results=True, start_method="fork"
        )
        sys.settrace(Alarm(at))
        try:
            with pytest.raises(TimeoutError, match="the caller's own"):
                context.wait()
        finally:
            sys.settrace(None)
        assert context.results() == [(0,)], at


def test_an_error_of_the_code_itself_is_not_a_handlers() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _divide(0)
    assert not came_from_handler(caught.value)


def _divide(by: int, frame: FrameType | None = None) -> float:
    return 1 / by
