"""What ranks do in the kit's tests of remote backends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from importlib import import_module
from typing import Any

from procession.testing.ranks import LONG, count_calls
from procession.testing.scratch import Stage

MAIN = """
import pickle
import procession

def multiply(rank, by):
    return rank * by

if __name__ == "__main__":
    backend, options = pickle.load(sys.stdin.buffer)
    print(procession.run(multiply, (10,), 2, start_method=backend, options=options))
"""
"""The source of a main module whose function the ranks call."""

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def tell_place(rank: int) -> dict[str, Any]:
    """Return this rank's pid and the variables of its place."""
    return {"pid": os.getpid(), **{name: os.environ.get(name) for name in _NAMES}}


def meet(rank: int) -> int:
    """Connect all ranks to rank 0, which returns how many they are; the others return their rank."""
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank:
        return _call(where, rank)
    others = int(os.environ["WORLD_SIZE"]) - 1
    with socket.create_server(where) as server:
        for _ in range(others):
            connection, _ = server.accept()
            connection.sendall(connection.recv(1))
            connection.close()
    return 1 + others


def _call(where: tuple[str, int], rank: int) -> int:
    until = time.monotonic() + LONG
    while True:
        try:
            with socket.create_connection(where) as connection:
                connection.sendall(bytes([rank]))
                return connection.recv(1)[0]
        except ConnectionRefusedError:  # rank 0 does not listen yet
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def settle(rank: int, folder: str) -> Stage:
    """Start two programs, one of them in a new session; note them and this rank, and give the cue."""
    stage = Stage(folder, LONG)
    count_calls(rank, folder)
    stage.note(os.getpid())
    for own_session in (False, True):
        stage.note(subprocess.Popen(["sleep", "300"], start_new_session=own_session).pid)
    stage.tell(f"agent {rank}", str(os.getppid()))
    stage.tell(f"asleep {rank}")
    return stage


def sleep(rank: int, folder: str) -> None:
    """Start programs, and sleep for minutes."""
    settle(rank, folder)
    time.sleep(300)


def raise_beside_a_sleeper(rank: int, folder: str) -> None:
    """Raise in rank 1, once rank 0 sleeps for minutes."""
    stage = settle(rank, folder)
    if rank == 0:
        time.sleep(300)
    stage.await_cue("asleep 0")
    stage.tell("failing", str(time.monotonic()))
    raise ValueError("boom from rank 1")


def kill_beside_a_sleeper(whom: str, rank: int, folder: str) -> None:
    """Kill rank 1, or its agent, once rank 0 sleeps for minutes."""
    stage = settle(rank, folder)
    if rank == 0:
        time.sleep(300)
    stage.await_cue("asleep 0")
    stage.tell("failing", str(time.monotonic()))
    os.kill(os.getppid() if whom == "agent" else os.getpid(), signal.SIGKILL)
    time.sleep(300)


def launch_sleepers(backend: Any, options: dict[str, Any], folder: str) -> None:
    """Launch two ranks that sleep, and wait for their end."""
    import procession

    procession.start_processes(sleep, (folder,), 2, start_method=backend, options=options)


def interrupt_yourself(backend: Any, options: dict[str, Any], folder: str) -> None:
    """Launch ranks, and interrupt this process as soon as rank 0 runs."""
    stage = Stage(folder, LONG)

    def interrupt() -> None:
        stage.await_cue("asleep 0")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        launch_sleepers(backend, options, folder)
    except KeyboardInterrupt:
        print("interrupted")


def list_addresses(rank: int) -> list[str]:
    """Return the addresses of this rank's host."""
    done = subprocess.run(
        ["ip", "-o", "-4", "address"], stdout=subprocess.PIPE, text=True, check=True
    )
    return [line.split()[3].partition("/")[0] for line in done.stdout.splitlines()]


def all_reduce(rank: int) -> float:
    """Return the sum of rank + 1 over all ranks, by torch.distributed with gloo."""
    torch, distributed = map(import_module, ("torch", "torch.distributed"))
    os.environ["GLOO_SOCKET_IFNAME"] = _find_interface(os.environ["MASTER_ADDR"])
    distributed.init_process_group("gloo")
    total = torch.tensor([float(rank + 1)])
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    return float(total.item())


def _find_interface(peer: str) -> str:
    """Return the network interface that reaches an address; gloo's default is that of this host's name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((peer, 9))
        own = sock.getsockname()[0]
    done = subprocess.run(
        ["ip", "-o", "-4", "address"], stdout=subprocess.PIPE, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return next(line[1] for line in lines if line[3].partition("/")[0] == own)
