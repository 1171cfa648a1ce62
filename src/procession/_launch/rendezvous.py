"""Environment variables by which frameworks find other ranks, as set by torchrun (torch.distributed.run)."""

from __future__ import annotations

import _socket
import os
from collections.abc import Mapping

LOOPBACK = "127.0.0.1"


def plan_local(nprocs: int) -> list[dict[str, str]]:
    """Return the variables of each rank when all ranks run on this host."""
    master = find_master(os.environ) or (LOOPBACK, str(find_free_port()))
    return [compose_variables(rank, nprocs, (rank, nprocs), 0, master) for rank in range(nprocs)]


def compose_variables(
    rank: int, nprocs: int, place: tuple[int, int], group: int, master: tuple[str, str]
) -> dict[str, str]:
    """Return the variables of one rank.

    Args:
        rank: the rank.
        nprocs: the number of ranks.
        place: the rank's number among the ranks of its host, and how many ranks that host has.
        group: the number of the rank's host.
        master: the address and port on which rank 0 may listen.
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
    """Return the MASTER_ADDR and MASTER_PORT that the user set.

    Return None if one is unset, or if RANK is set too: then both come from the launch of this process.
    """
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    return (address, port) if address and port and "RANK" not in environ else None


def find_free_port() -> int:
    """Return a free port below the range from which the kernel assigns ports; 0 if none is found."""
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
    """Return the lowest port that the kernel assigns by itself (ip(7)); off Linux 32768, Linux's default."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            return int(file.read().split()[0])
    except OSError:
        return 32768
