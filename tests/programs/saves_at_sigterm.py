"""A program that a rank starts, and that takes a while to save its work at SIGTERM.

Usage: saves_at_sigterm.py FOLDER
"""

from __future__ import annotations

import signal
import sys
import time

from procession.testing.scratch import Stage

stage = Stage(sys.argv[1], 60)


def save(*_: object) -> None:
    time.sleep(0.3)
    stage.tell("saved")
    sys.exit(0)


signal.signal(signal.SIGTERM, save)
stage.tell("saver")
stage.work()
