"""How an agent and the hub that it connects to prove to each other that they belong to one launch.

Each side shows that it knows the launch's secret, without sending it, before the other reads anything
that it would have to understand: HMAC-SHA256 (RFC 2104) over both sides' random challenges.  Nothing is
encrypted: see docs/explanation/scale.md for what to do on a network that others can change.
"""

from __future__ import annotations

import hmac
import os
import socket

SIZE = 32
"""Bytes of a challenge, and of an answer."""


class AuthenticationError(ConnectionError):
    """Raised when who is at the other end does not know the launch's secret."""


class Greeting:
    """The hub's side of one handshake, without waiting: `challenge` is sent, what comes is fed to it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._came = b""
        self.challenge: bytes = os.urandom(SIZE)

    @property
    def missing(self) -> int:
        """How many bytes are still to come."""
        return 2 * SIZE - len(self._came)

    def feed(self, data: bytes) -> bytes | None:
        """Take what came; return what goes out last, None while something is missing.

        Raises:
            AuthenticationError: it is no agent of this launch.
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
        AuthenticationError: it is not the hub of this launch.
        OSError: it does not answer.
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
