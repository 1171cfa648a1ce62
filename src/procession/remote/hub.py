"""Where the agents of one launch connect to: one listener, which waits for none of them in particular.

Whoever connects is asked for a proof first (`handshake`).  Who has none, or does not answer in time, is
dropped; nothing that it sends is interpreted.  Once all agents are there the listener is closed.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from procession._linux import fds
from procession._linux.messages import NO_SIGNAL
from procession.remote.agent_connection import VERSION, AgentConnection, note_clock
from procession.remote.handshake import Greeting
from procession.remote.link import HELLO, Link, keep_alive

GREETING_TIME = 10.0
"""Seconds that who has connected has for its proof."""

SPARE = 128
"""Connections without a proof that are kept beyond those of the agents; then the oldest goes."""

_PAUSE = 0.2  # seconds between looks at the engine, while agents are awaited


class RefusalError(Exception):
    """Raised when an agent of this launch cannot be one of its ranks; the text says why."""


class Hub:
    """The caller's end of all connections of one launch, while it starts."""

    def __init__(self, nprocs: int, host: str, port: int, contact_timeout: float) -> None:
        self.secret: bytes = os.urandom(32)
        self._nprocs = nprocs
        self._contact_timeout = contact_timeout
        self._controls: dict[int, tuple[Link, dict[str, Any]]] = {}
        self._ends: dict[int, Link] = {}
        self._unproven: dict[int, _Unauthenticated] = {}
        self._proven: set[Link] = set()
        with fds.LOCK:
            self._listener = _listen(host, port)
            self._selector = fds.make_selector()
            fds.keep_object(self)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def missing(self) -> list[int]:
        """The ranks whose agents have not come."""
        return [rank for rank in range(self._nprocs) if not self._has(rank)]

    def gather(self, until: float, check: Callable[[], object]) -> list[AgentConnection] | None:
        """Wait for all agents, and return them by rank; None if some have not come by then.

        ``check`` is called now and then, to raise if it is in vain.

        Raises:
            RefusalError: one that came cannot be one of the ranks.
        """
        while len(self._controls) + len(self._ends) < 2 * self._nprocs:
            now = time.monotonic()
            if now >= until:
                return None
            for key, _ in self._selector.select(min(_PAUSE, until - now)):
                key.data(key.fileobj)
            self._drop_slow()
            check()
        connections = [
            AgentConnection(rank, control, self._ends[rank], hello)
            for rank, (control, hello) in sorted(self._controls.items())
        ]
        self._controls, self._ends = {}, {}
        return connections

    def close(self) -> None:
        """Close the listener, and whatever has not become a seat's."""
        for guest in list(self._unproven.values()):
            self._forget(guest)
        for link in [
            *self._proven,
            *(link for link, _ in self._controls.values()),
            *self._ends.values(),
        ]:
            link.close()
        self._selector.close()
        self._listener.close()

    def close_in_child(self) -> None:
        """Close what another process that this one has just become has no use for."""
        self._selector.close()
        self._listener.close()
        for guest in self._unproven.values():
            guest.sock.close()

    def _has(self, rank: int) -> bool:
        return rank in self._controls and rank in self._ends

    def _accept(self, listener: socket.socket) -> None:
        try:
            with fds.LOCK:
                sock = fds.lift_socket(listener.accept()[0])
                guest = _Unauthenticated(sock, Greeting(self.secret))
                self._unproven[sock.fileno()] = guest
        except OSError as error:  # it has gone already; or there are too few descriptors
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return
        sock.setblocking(False)
        if len(self._unproven) > 2 * self._nprocs + SPARE:
            self._forget(next(iter(self._unproven.values())))
        try:
            sock.send(guest.greeting.challenge, NO_SIGNAL)
            self._selector.register(sock, selectors.EVENT_READ, lambda _: self._greet(guest))
        except OSError:
            self._forget(guest)

    def _greet(self, guest: _Unauthenticated) -> None:
        """Read what a guest says of itself; it may be anybody."""
        try:
            data = guest.sock.recv(guest.greeting.missing)
            answer = guest.greeting.feed(data)
            if answer is not None:
                guest.sock.send(answer, NO_SIGNAL)
        except BlockingIOError:
            return
        except OSError:  # an AuthenticationError, too
            self._forget(guest)
            return
        if not data:
            self._forget(guest)
        elif answer is not None:
            self._welcome(guest)

    def _welcome(self, guest: _Unauthenticated) -> None:
        self._selector.unregister(guest.sock)
        del self._unproven[guest.sock.fileno()]
        keep_alive(guest.sock, self._contact_timeout)
        link = Link(guest.sock)
        self._proven.add(link)
        self._selector.register(link, selectors.EVENT_READ, self._meet)

    def _meet(self, link: Link) -> None:
        """Read which rank's connection this is, and which of the two."""
        try:
            frame = link.receive()
        except EOFError:
            self._selector.unregister(link)
            self._proven.discard(link)
            link.close()
            return
        if frame is None:
            return
        if frame.kind != HELLO:
            raise RefusalError(f"an agent began with a frame of kind {frame.kind!r}")
        self._selector.unregister(link)
        try:
            self._connection(link, frame.head)
        except (LookupError, TypeError, ValueError) as error:
            raise RefusalError(f"an agent began with what cannot be read: {error!r}") from None
        self._proven.discard(link)

    def _connection(self, link: Link, hello: dict[str, Any]) -> None:
        """Give a connection its place."""
        if hello["what"] == "control":
            note_clock(hello)
            rank = self._number(hello)
            self._controls[rank] = link, hello
            link.send(HELLO, rank)
        else:
            self._ends[hello["rank"]] = link

    def _number(self, hello: dict[str, Any]) -> int:
        rank = hello["rank"]
        where = f"process {hello['pid']} on {hello['host']}"
        if hello["version"] != VERSION:
            theirs, ours = (".".join(map(str, each[1:])) for each in (hello["version"], VERSION))
            raise RefusalError(
                f"{where} runs Python {theirs}, and this is {ours}, or another version of procession; the "
                "option 'python' names the interpreter there"
            )
        if rank < 0:
            rank = next(
                (each for each in range(self._nprocs) if each not in self._controls), self._nprocs
            )
        if rank >= self._nprocs:
            raise RefusalError(f"{where} says that it is rank {rank} of {self._nprocs}")
        if rank in self._controls:
            other = self._controls[rank][1]
            raise RefusalError(
                f"{where} and process {other['pid']} on {other['host']} say that they are rank {rank}"
            )
        return int(rank)

    def _drop_slow(self) -> None:
        now = time.monotonic()
        while self._unproven:
            oldest = next(iter(self._unproven.values()))
            if now < oldest.since + GREETING_TIME:
                return
            self._forget(oldest)

    def _forget(self, guest: _Unauthenticated) -> None:
        self._unproven.pop(guest.sock.fileno(), None)
        try:
            self._selector.unregister(guest.sock)
        except (KeyError, ValueError):
            pass
        guest.sock.close()


class _Unauthenticated:
    """Somebody who has connected."""

    def __init__(self, sock: socket.socket, greeting: Greeting) -> None:
        self.sock = sock
        self.greeting = greeting
        self.since: float = time.monotonic()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listener at an address of this machine.

    Raises:
        ValueError: it is none, or its port is taken.
    """
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = fds.lift_socket(socket.socket(family, kind, number))
    except socket.gaierror as error:
        raise ValueError(f"options['advertise']: {host!r} cannot be resolved: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(4096)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"options: cannot listen at {host!r}, port {port}: {error.strerror}; 'advertise' must be an "
            "address of this machine that the ranks' hosts can reach, 'port' a free one, or 0"
        ) from None
    return listener
