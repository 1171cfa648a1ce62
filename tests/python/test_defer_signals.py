"""An interrupt waits until the code that must not be interrupted has ended."""

from __future__ import annotations

import os
import signal
import time

import pytest

from procession._python.defer_signals import defer_sigint


def test_interrupts_are_deferred_and_then_raised() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_sigint():  # noqa: PT012  # what goes on is the point
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        reached.append(True)
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
