"""Functions of ranks, tasks and callers in the tests of the start method."""

from __future__ import annotations

import os
import socket
from typing import Any

from procession.testing.scratch import Stage


def double(rank: int, number: int) -> int:
    return 2 * number + rank


def tell_process(rank: int) -> tuple[int, str]:
    return os.getpid(), os.environ["MASTER_ADDR"]


def tell_worker(rank: int) -> int:
    """Return the process id of the worker that started the agent of this rank."""
    return get_parent(os.getppid())


def get_parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def get_last(rank: int, array: Any) -> float:
    return float(array[-1]) + rank


def count(rank: int, size: int) -> bytes:
    return bytes([rank]) * size


def nest(number: int) -> list[int]:
    """Launch ranks from a task, through the client of its worker."""
    from procession import run

    return run(double, (number,), 2, start_method="dask")


def occupy(folder: str, number: int) -> None:
    """Keep the thread of a task until a cue."""
    stage = Stage(folder, 0)
    stage.tell(f"occupied {number}")
    stage.await_cue("leave")


def reduce(rank: int) -> float:
    """Add up the numbers of all ranks by torch."""
    import torch
    from torch import distributed

    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    os.environ["GLOO_SOCKET_IFNAME"] = names[
        0
    ]  # gloo would look up the name, which both hosts share
    distributed.init_process_group("gloo")
    tensor = torch.tensor([float(rank + 1)])
    distributed.all_reduce(tensor)
    distributed.destroy_process_group()
    return float(tensor)


def tell_network(rank: int) -> tuple[str, str | None]:
    return os.readlink("/proc/self/ns/net"), os.environ.get("MASTER_ADDR")


def measure(rank: int, data: bytes) -> int:
    return len(data)
