"""The clock of deadlines, whatever tests have replaced in the module `time`.

freezegun and mocks replace `time.monotonic`, in modules that have imported it too: deadlines would never
pass.  `time.clock_gettime` reads the same clock on Linux (`time.get_clock_info`).
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_partial: Any = __import__("_functools").partial  # functools itself is a large import

monotonic: Callable[[], float] = (
    _partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if sys.platform == "linux"
    else _partial(time.monotonic)
)
"""Return the time in seconds, as `time.monotonic` does."""
