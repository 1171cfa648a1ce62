"""Deadlines pass although a test of the caller's has stopped `time.monotonic`.

Promise: Stopping takes bounded time.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

import ranks
from procession import ProcessExitedException, ProcessTimeoutError, start_processes
from procession.testing.times import patience


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_an_abort(start_method: str) -> None:
    with pytest.raises(ProcessExitedException, match="SIGABRT"):
        start_processes(ranks.fail_in, (0, "SIGABRT"), 2, start_method=start_method)


@pytest.mark.parametrize("more", [{}, {"grace_period": 0.2}])
def test_a_deadline(start_method: str, more: dict[str, Any]) -> None:
    with pytest.raises(ProcessTimeoutError):
        start_processes(
            ranks.work, nprocs=2, start_method=start_method, timeout=patience(1), **more
        )
