"""Authentication: an agent and its hub prove to each other that they belong to the same launch.

Each side proves that it knows the launch's secret without sending it: HMAC-SHA256 (RFC 2104) over the random
challenges of both sides.  Neither side interprets any other data before that.  The connection is not
encrypted: see docs/explanation/scale.md for networks on which others can change data.
"""

from __future__ import annotations

import hmac
import os
import socket

SIZE = 32
"""Bytes of a challenge, and of a proof."""


class AuthenticationError(ConnectionError):
    """Raised when the other end does not prove that it knows the launch's secret."""


class Greeting:
    """The hub's side of one handshake; it does no input or output.

    The hub sends `challenge`, then passes received data to `feed`.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._came = b""
        self.challenge: bytes = os.urandom(SIZE)

    @property
    def missing(self) -> int:
        """The number of bytes still to come."""
        return 2 * SIZE - len(self._came)

    def feed(self, data: bytes) -> bytes | None:
        """Take received data; return the hub's own proof once all bytes have come, else None.

        Raises:
            AuthenticationError: the other end is not an agent of this launch.
        """
        self._came += data
        if self.missing > 0:
            return None
        theirs, proof = self._came[:SIZE], self._came[SIZE:]
        if not hmac.compare_digest(proof, _prove(self._secret, b"agent", self.challenge, theirs)):
            raise AuthenticationError("it does not know the launch's secret")
        return _prove(self._secret, b"hub", theirs, self.challenge)


def greet_hub(sock: socket.socket, secret: bytes) -> None:
    """Do the agent's side of the handshake; the socket's timeout bounds each wait.

    Raises:
        AuthenticationError: the other end is not the hub of this launch.
        OSError: the other end does not answer.
    """
    challenge, own = _receive(sock, SIZE), os.urandom(SIZE)
    sock.sendall(own + _prove(secret, b"agent", challenge, own))
    if not hmac.compare_digest(_receive(sock, SIZE), _prove(secret, b"hub", own, challenge)):
        raise AuthenticationError("it does not know the launch's secret")


def _prove(secret: bytes, who: bytes, theirs: bytes, own: bytes) -> bytes:
    return hmac.digest(secret, b"procession " + who + theirs + own, "sha256")


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise AuthenticationError("it closed the connection")
        data += part
    return data
