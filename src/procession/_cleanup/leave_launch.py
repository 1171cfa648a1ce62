"""Takes a process out of the launch that started it."""

from __future__ import annotations

import os
import time

from procession._cleanup import cgroups, marks
from procession._python.clock import monotonic


def leave_launch(caller: int, patience: float = 0.2) -> None:
    """Take this process out of the launch that ``caller`` is starting it for: out of its mark and its cgroup.

    What the launch ends does not include this process any more.

    Args:
        caller: the process id of the process that started this one, and marks it a moment later.
        patience: how long to wait for the mark, in seconds.
    """
    theirs = marks.read_mark(caller)
    until = monotonic() + patience
    while (mark := marks.read_mark(0)) == theirs and monotonic() < until:
        time.sleep(0.001)
    marks.spare(0)
    while os.environ.get("PROCESSION_CGROUP") == "1" and monotonic() < until:
        parent, own = os.path.split(os.path.dirname(cgroups.locate(mark or 0)))
        if own == f"procession-{mark or 0:016x}":
            cgroups.join(parent, 0)
            break
        time.sleep(0.001)
