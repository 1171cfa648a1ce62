"""A launch leaves the caller's signal mask alone, and no rank blocks what asks it to end.

Promise: Launches do not disturb each other.
"""

from __future__ import annotations

import signal

from scripts import run_program


def test_the_mask_of_caller_and_rank(start_method: str) -> None:
    caller = sorted(map(int, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)))
    printed = run_program("waits_for_sigterm.py", start_method).stdout
    assert printed == f"{caller} {[int(signal.SIGUSR1)]}\n"
