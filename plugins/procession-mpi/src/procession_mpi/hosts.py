"""The option ``hosts``: how many slots these hosts have, and whether they can reach this host."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any


def read_hosts(given: Any) -> list[str]:
    """Return the option ``hosts`` as a list of ``host`` or ``host:slots``.

    Raises:
        TypeError, ValueError: it is not such a list.
    """
    hosts = given.split(",") if isinstance(given, str) else list(given or ())
    if not all(isinstance(host, str) for host in hosts):
        raise TypeError(f"options['hosts'] must be a list of 'host' or 'host:slots', not {given!r}")
    for host in hosts:
        name, _, slots = host.partition(":")
        if not name.strip() or not (slots.isdigit() or slots == ""):
            raise ValueError(f"options['hosts']: {host!r} is neither 'host' nor 'host:slots'")
    return hosts


def count_slots(hosts: Sequence[str]) -> int | None:
    """Return how many ranks fit on the hosts, one on a host without a number; None if there are no hosts."""
    return sum(int(host.partition(":")[2] or 1) for host in hosts) if hosts else None


def check_reachable(hosts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse hosts whose ranks cannot reach the caller.

    Raises:
        ValueError: one is another host, and the caller listens only on its loopback interface.
    """
    if options.get("advertise") is not None:
        return
    for host in (each.partition(":")[0] for each in hosts):
        if not _is_here(host):
            raise ValueError(
                f"options: ranks on {host} cannot reach this process, which listens at 127.0.0.1; give "
                "'advertise', an address of this machine that they can reach"
            )


def _is_here(host: str) -> bool:
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return False  # a name that only mpiexec knows
    if address.startswith("127.") or host == socket.gethostname():
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
