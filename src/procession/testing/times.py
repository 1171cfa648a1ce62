"""Times that tests wait at most, scaled for machines that are slow or busy."""

from __future__ import annotations

import os

VARIABLE = "PROCESSION_TEST_PATIENCE"


def patience(seconds: float) -> float:
    """Return a time that a test waits at most, in seconds, scaled for this machine.

    The factor is the environment variable ``PROCESSION_TEST_PATIENCE``, or 1.  Set it to 3, say, where the
    machine is so slow or busy that tests fail.
    """
    return seconds * float(os.environ.get(VARIABLE) or 1)
