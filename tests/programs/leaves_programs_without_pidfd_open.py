"""Prints the process ids of two programs that a rank leaves: in its process group, and in a new session.

pidfd_open(2) is forbidden.  Argument: the start method.
"""

from __future__ import annotations

import errno
import subprocess
import sys

import forbidding
from procession import run


def work(rank: int) -> list[int]:
    return [
        subprocess.Popen(
            ["sleep", "60"],
            start_new_session=new,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).pid
        for new in (False, True)
    ]


if __name__ == "__main__":
    forbidding.forbid("pidfd_open", errno.ENOSYS)
    print(*run(work, start_method=sys.argv[1])[0])
