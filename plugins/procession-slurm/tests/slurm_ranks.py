"""Functions of ranks and callers in the tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_CPUS_PER_TASK")


def see(rank: int, *names: str) -> tuple[int, dict[str, str | None]]:
    """Return the rank, and some of its variables."""
    return rank, {name: os.environ.get(name) for name in names or NAMES}


def say(rank: int) -> None:
    """Write to both streams, also parts of lines."""
    print(f"rank {rank} says this")
    print(f"rank {rank} errs", file=sys.stderr)
    print(f"rank {rank} ends", end="")


def read_parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def sum_array(rank: int, array: Any) -> float:
    """Return the sum of an array and the rank."""
    return float(array.sum()) + rank


def reduce_with_gloo(rank: int) -> tuple[float, str]:
    """Add up the numbers of all ranks by torch; return the sum, and the name of this node."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    number = torch.tensor([rank + 1.0])
    distributed.all_reduce(number)
    distributed.destroy_process_group()
    return float(number), os.environ["SLURMD_NODENAME"]


def save_on_usr1(rank: int, folder: str) -> str:
    """Wait for SIGUSR1; return its name."""
    from procession.testing.scratch import Stage

    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    Stage(folder, 60).tell(f"asleep {rank}")
    while not got:
        time.sleep(0.01)
    return signal.Signals(got[0]).name
