"""What srun starts for each rank: an agent that also ends when Slurm's step daemon is gone.

Slurm may then give the processors to other jobs, and no other process would end the rank.
"""

from __future__ import annotations

import os


def main() -> None:
    """Run the agent of one rank; this process's parent is Slurm's step daemon."""
    from procession.authoring import pidfd_open
    from procession.remote import run_agent

    try:
        parent = pidfd_open(os.getppid())  # readable once it has ended
    except OSError:  # a kernel before 5.3
        parent = -1
    run_agent(parent)


if __name__ == "__main__":
    main()
