"""The address of JAX's coordinator, which rank 0 runs: reserved by the launcher, awaited by the ranks."""

from __future__ import annotations

import socket
import time

from procession._linux import fds

LOCALHOST = "127.0.0.1"

_PAUSE = 0.01  # seconds between two looks


class Reservation:
    """A port of this host that nobody else is given; or an ``address`` that needs no reservation.

    The launcher keeps a socket bound to it, with SO_REUSEPORT and without listening.  The coordinator (gRPC
    sets SO_REUSEPORT) of this user's rank can listen there; the kernel gives the port to no one else, and
    refuses it to whoever asks for it without that option (socket(7)).
    """

    def __init__(self, address: str | None = None) -> None:
        self.address: str = address or ""
        self._fd = -1
        if address is None:
            self._reserve()

    def _reserve(self) -> None:
        with fds.LOCK, socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((LOCALHOST, 0))
            self.address = f"{LOCALHOST}:{sock.getsockname()[1]}"
            self._fd = fds.keep(sock.detach())  # forked ranks close it

    def close(self) -> None:
        """Give the port back, if there is one.  May be called twice."""
        fds.drop(self._fd)


def find_free_port() -> int:
    """Return a port that is free now, and not kept: others could not bind it without SO_REUSEPORT."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        port: int = sock.getsockname()[1]
        return port


def await_coordinator(address: str, seconds: float) -> None:
    """Wait until something listens at ``host:port``.

    A client that tries before backs off, and then takes about a second (gRPC's connection backoff).

    Raises:
        TimeoutError: nothing does, ``seconds`` long.
    """
    until = time.monotonic() + seconds
    while not is_listening(address):
        if time.monotonic() > until:
            raise TimeoutError(
                f"nothing listens at {address} after {seconds:g} s: rank 0, which runs JAX's coordinator, "
                "has not initialised JAX's distributed runtime; all ranks have to"
            )
        time.sleep(_PAUSE)


def is_listening(address: str) -> bool:
    """Tell whether something listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except socket.gaierror:  # there is no such host, and will not be
        raise
    except OSError:
        return False
    return True
