"""A program that a rank starts, and that cleans up once the rank has ended.

Usage: cleans_up_after_rank.py FOLDER RANK PID, where PID is the rank's.
"""

from __future__ import annotations

import os
import sys
import time

from procession.testing.scratch import Stage

folder, rank, parent = sys.argv[1:]
stage = Stage(folder, 60)
stage.tell(f"cleaner {rank}", str(os.getpid()))
while os.getppid() == int(parent):
    time.sleep(0.01)
stage.tell(f"cleaned {rank}")
