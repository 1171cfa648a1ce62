"""The address of JAX's coordinator, which rank 0 runs: the launcher reserves it, the ranks wait for it."""

from __future__ import annotations

import socket
import time

from procession.authoring import FD_LOCK, drop_fd, keep_fd
from procession_xla.place import Place

LOCALHOST = "127.0.0.1"

_PAUSE = 0.01  # seconds between two attempts to connect


class Reservation:
    """A port of this host that the launch keeps for itself; or a given ``address``, which is not reserved.

    The launcher keeps a socket bound to the port, with SO_REUSEPORT and without listening.  The coordinator
    of this user's rank can listen there, since gRPC sets SO_REUSEPORT.  The kernel assigns the port to no
    other process, and refuses it to a process that asks for it without that option (socket(7)).
    """

    def __init__(self, address: str | None = None) -> None:
        self.address: str = address or ""
        self._fd = -1
        if address is None:
            self._reserve()

    def _reserve(self) -> None:
        with FD_LOCK, socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((LOCALHOST, 0))
            self.address = f"{LOCALHOST}:{sock.getsockname()[1]}"
            self._fd = keep_fd(sock.detach())  # forked ranks close it

    def close(self) -> None:
        """Release the port, if there is one.  May be called twice."""
        fd, self._fd = self._fd, -1
        drop_fd(fd)


def find_free_port() -> int:
    """Return a port that is free now, not reserved: a program may bind it without SO_REUSEPORT."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        port: int = sock.getsockname()[1]
        return port


def prepare_coordinator(rank: int, place: Place) -> None:
    """Wait until rank 0 listens; in rank 0, check that it can listen, since JAX crashes if it cannot.

    Raises:
        TimeoutError: rank 0 does not listen in time.
        RuntimeError: in rank 0, another program listens at the address.
    """
    address = place["coordinator"]
    if rank:
        await_coordinator(address, place["initialization_timeout"])
    elif not place["reserved"] and is_listening(address):
        raise RuntimeError(f"options['coordinator']: {address} is in use already")


def await_coordinator(address: str, seconds: float) -> None:
    """Wait until a program listens at ``host:port``.

    A gRPC client that connects before that backs off, and then needs about a second more.

    Raises:
        TimeoutError: none listens within ``seconds``.
    """
    until = time.monotonic() + seconds
    while not is_listening(address):
        if time.monotonic() > until:
            raise TimeoutError(
                f"nothing listens at {address} after {seconds:g} s: rank 0, which runs JAX's coordinator, "
                "has not initialised JAX's distributed runtime; all ranks must do so"
            )
        time.sleep(_PAUSE)


def is_listening(address: str) -> bool:
    """Return whether a program listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except socket.gaierror:  # there is no such host: waiting does not help
        raise
    except OSError:
        return False
    return True
