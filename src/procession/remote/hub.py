"""The hub: the listener to which the agents of one launch connect.

A new connection must first prove that it belongs to the launch (`handshake`).  The hub drops a connection
without a valid proof, or whose proof does not come in time, and interprets nothing else that it sends.  Once
all agents have arrived, the listener is closed, and the supervisor waits for the connections themselves:

|============== caller ==============|======= connection =======|============ host of a rank ============|

 placement: the engine ──────────────────────────────────────────> starts an agent
 Hub      _accept <───────────────────────── control, end ──────── agent connects twice
          _authenticate <─────────────── challenges, proofs ─────> greet_hub
          _read_hello, _assign <──────────────── HELLO ──────────> rank, host, pid, clock, version
          gather ──> AgentConnection(control, end)
 Dispatch give ──────────────── control: SPEC, PAYLOAD or SHARE ─> starts the rank
               <─────────────── control: STARTED or UNABLE ─────── its pid, or a traceback
 RemoteProcess ──────────────── control: SIGNAL, ASK, FINISH ────> AgentSession ──> rank
 RemoteChannel <───── control: REPORT, RESULT, STACKS, EVIDENCE ── AgentSession <── rank
 sentinel <──────────────────── end: exit code, then closed ────── AgentSession <── end of the rank
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable

from procession._linux import fds
from procession._linux.messages import NO_SIGNAL
from procession._python.clock import monotonic
from procession._python.log import debug
from procession.remote.agent_connection import VERSION, AgentConnection, note_clock
from procession.remote.handshake import Greeting
from procession.remote.link import HELLO, Link, keep_alive
from procession.remote.messages import ArrivedHello, ControlHello, EndHello

GREETING_TIME = 10.0
"""Seconds within which a new connection must send its proof."""

SPARE = 128
"""The number of unproven connections beyond those of the agents; with more, the hub drops the oldest."""

_PAUSE = 0.2  # seconds between looks at the engine while the hub waits for agents


class RefusalError(Exception):
    """Raised when an agent of this launch cannot take a rank; the text says why."""


class Hub:
    """The caller's end of all connections of one launch while it starts."""

    def __init__(self, nprocs: int, host: str, port: int, contact_timeout: float) -> None:
        self.secret: bytes = os.urandom(32)
        self._nprocs = nprocs
        self._contact_timeout = contact_timeout
        self._controls: dict[int, tuple[Link, ArrivedHello]] = {}
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
        """The ranks whose agents have not arrived."""
        return [rank for rank in range(self._nprocs) if not self._has(rank)]

    def gather(self, until: float, check: Callable[[], object]) -> list[AgentConnection] | None:
        """Wait for all agents and return their connections by rank; None if some have not arrived in time.

        Args:
            until: when to give up (`time.monotonic`).
            check: called repeatedly; it raises if waiting is pointless.

        Raises:
            RefusalError: an agent cannot take a rank.
        """
        while len(self._controls) + len(self._ends) < 2 * self._nprocs:
            now = monotonic()
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
        """Close the listener, and all connections that `gather` has not returned."""
        for peer in list(self._unproven.values()):
            self._forget(peer)
        for link in [
            *self._proven,
            *(link for link, _ in self._controls.values()),
            *self._ends.values(),
        ]:
            link.close()
        self._selector.close()
        self._listener.close()

    def close_in_child(self) -> None:
        """Close the descriptors that a new fork of this process does not need."""
        self._selector.close()
        self._listener.close()
        for peer in self._unproven.values():
            peer.sock.close()

    def _has(self, rank: int) -> bool:
        return rank in self._controls and rank in self._ends

    def _accept(self, listener: socket.socket) -> None:
        try:
            with fds.LOCK:
                sock = fds.lift_socket(listener.accept()[0])
                peer = _Unauthenticated(sock, Greeting(self.secret))
                self._unproven[sock.fileno()] = peer
        except OSError as error:  # the connection is closed already, or no descriptor is left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return
        sock.setblocking(False)
        if len(self._unproven) > 2 * self._nprocs + SPARE:
            self._forget(next(iter(self._unproven.values())))
        try:
            sock.send(peer.greeting.challenge, NO_SIGNAL)
            self._selector.register(sock, selectors.EVENT_READ, lambda _: self._authenticate(peer))
        except OSError:
            self._forget(peer)

    def _authenticate(self, peer: _Unauthenticated) -> None:
        """Read the proof of a connection, whose other end is unknown as yet."""
        try:
            data = peer.sock.recv(peer.greeting.missing)
            answer = peer.greeting.feed(data)
            if answer is not None:
                peer.sock.send(answer, NO_SIGNAL)
        except BlockingIOError:
            return
        except OSError:  # including AuthenticationError
            self._forget(peer)
            return
        if not data:
            self._forget(peer)
        elif answer is not None:
            self._admit(peer)

    def _admit(self, peer: _Unauthenticated) -> None:
        self._selector.unregister(peer.sock)
        del self._unproven[peer.sock.fileno()]
        keep_alive(peer.sock, self._contact_timeout)
        link = Link(peer.sock)
        self._proven.add(link)
        self._selector.register(link, selectors.EVENT_READ, self._read_hello)

    def _read_hello(self, link: Link) -> None:
        """Read the hello: which rank's connection this is, and which of the two."""
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
            self._assign(link, frame.head)
        except (LookupError, TypeError, ValueError) as error:
            raise RefusalError(f"the first frame of an agent cannot be read: {error!r}") from None
        self._proven.discard(link)

    def _assign(self, link: Link, hello: ArrivedHello | EndHello) -> None:
        """Assign a connection to its rank."""
        if hello["what"] == "control":
            note_clock(hello)
            rank = self._choose_rank(hello)
            self._controls[rank] = link, hello
            debug("the agent of rank %d arrived from %s", rank, hello["host"])
            link.send(HELLO, rank)
        else:
            self._ends[hello["rank"]] = link

    def _choose_rank(self, hello: ControlHello) -> int:
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
        now = monotonic()
        while self._unproven:
            oldest = next(iter(self._unproven.values()))
            if now < oldest.since + GREETING_TIME:
                return
            self._forget(oldest)

    def _forget(self, peer: _Unauthenticated) -> None:
        self._unproven.pop(peer.sock.fileno(), None)
        try:
            self._selector.unregister(peer.sock)
        except (KeyError, ValueError):
            pass
        peer.sock.close()


class _Unauthenticated:
    """A connection that has not proved yet that it belongs to the launch."""

    def __init__(self, sock: socket.socket, greeting: Greeting) -> None:
        self.sock = sock
        self.greeting = greeting
        self.since: float = monotonic()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listener at an address of this machine.

    Raises:
        ValueError: the address is not of this machine, or the port is taken.
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
            "address of this machine that the ranks' hosts can reach, and 'port' a free port or 0"
        ) from None
    return listener
