"""Launches of several threads share a forkserver."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import ranks
from procession import run

if TYPE_CHECKING:
    import pytest

THREADS, LAUNCHES = 6, 5


def test_threads_share_one_server(caplog: pytest.LogCaptureFixture, no_servers: None) -> None:
    together = threading.Barrier(THREADS)
    given: list[list[object]] = []

    def launch() -> None:
        together.wait()
        given.extend(run(ranks.give, (), 2, start_method="forkserver") for _ in range(LAUNCHES))

    with caplog.at_level(logging.DEBUG, "procession"):
        threads = [threading.Thread(target=launch) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert given == [[(0,), (1,)]] * THREADS * LAUNCHES
    assert len([text for text in caplog.messages if "is ready" in text]) == 1
