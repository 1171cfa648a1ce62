"""The variables by which frameworks find the other ranks: torchrun's (torch.distributed.run)."""

from __future__ import annotations

import _socket
import os
from collections.abc import Mapping

LOOPBACK = "127.0.0.1"


def plan_local(nprocs: int) -> list[dict[str, str]]:
    """Return the variables of each rank, where all ranks run on this host."""
    master = find_master(os.environ) or (LOOPBACK, str(find_free_port()))
    return [compose_variables(rank, nprocs, (rank, nprocs), 0, master) for rank in range(nprocs)]


def compose_variables(
    rank: int, nprocs: int, place: tuple[int, int], group: int, master: tuple[str, str]
) -> dict[str, str]:
    """Return the variables of one rank.

    Args:
        rank: which.
        nprocs: how many there are.
        place: its number among the ranks of its host, and how many these are.
        group: the number of its host.
        master: the address and port at which rank 0 may listen.
    """
    address, port = master
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(nprocs),
        "LOCAL_RANK": str(place[0]),
        "LOCAL_WORLD_SIZE": str(place[1]),
        "GROUP_RANK": str(group),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }


def find_master(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the caller's own address and port; None if one is unset, or both are another launch's."""
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    return (address, port) if address and port and "RANK" not in environ else None


def find_free_port() -> int:
    """Return a port that nobody listens at, and that the kernel gives to nobody who does not ask for it."""
    for _ in range(100):
        port = 1024 + int.from_bytes(os.urandom(4), "big") % max(_read_lowest() - 1024, 1)
        sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            sock.bind(("", port))
        except OSError:
            continue
        finally:
            sock.close()
        return port
    return 0


def _read_lowest() -> int:
    """Return the lowest port that the kernel gives away by itself (ip(7)); 32768, its default, off Linux."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            return int(file.read().split()[0])
    except OSError:
        return 32768
