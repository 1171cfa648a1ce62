"""What srun starts for each rank: an agent that also ends when Slurm's own process beside it is gone.

Slurm may give the processors to others then, and nobody would end the rank.
"""

from __future__ import annotations

import os


def main() -> None:
    """Hold one rank, as `procession.remote.agent` does; this process's parent is Slurm's step daemon."""
    from procession._linux.syscalls import pidfd_open
    from procession.remote.agent import main as hold
    from procession.remote.placement import VARIABLE, pack, unpack

    try:
        parent = pidfd_open(os.getppid())  # readable, as the guard of an agent must be, at its end
    except OSError:  # a kernel before 5.3
        parent = -1
    if VARIABLE in os.environ:
        os.environ[VARIABLE] = pack({**unpack(os.environ[VARIABLE]), "guard": parent})
    hold()


if __name__ == "__main__":
    main()
