"""Which client a launch talks to Dask by: one that it is given, the current one, or one of its own."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from procession import BackendUnavailableError, Launch

CALL_TIME = 5.0
"""Seconds that a scheduler has for an answer."""

_CONNECT_TIME = 3.0  # seconds for it to be there at all
_PORT = 8786  # Dask's own default
_PLAIN = ("tcp", "tls", "ws", "wss", "ucx")  # schemes whose addresses are a host and a port

TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
"""What is raised when something has taken too long; one and the same from Python 3.11 on."""


class Connection:
    """A client, and whether it ends with the launch."""

    def __init__(self, client: Any, *, owned: bool) -> None:
        self.client = client
        self._owned = owned

    def ask(self, call: Callable[..., Awaitable[Any]], *args: Any, patience: float | None) -> Any:
        """Return what a coroutine function gives, on the client's event loop.

        Raises:
            TimeoutError: it took longer than ``patience`` seconds, which None does not limit.
            Exception: what it raises.
        """
        try:
            return self.client.sync(call, *args, callback_timeout=patience)
        except TIMEOUTS as error:
            raise TimeoutError(str(error)) from None

    @property
    def is_open(self) -> bool:
        """Whether the scheduler can be asked."""
        return bool(self.client.status == "running")

    def close(self) -> None:
        """Close a client of the launch's own.  May be called again."""
        if self._owned:
            self.client.close()


def find_client(launch: Launch) -> Connection:
    """Return the connection of a launch.

    Raises:
        TypeError, ValueError: the options name none, or not a usable one.
        BackendUnavailableError: no scheduler answers.
    """
    client, address = launch.options.get("client"), launch.options.get("address")
    if client is not None and address is not None:
        raise ValueError("options: give either 'client' or 'address', not both")
    if address is not None:
        return Connection(_connect(launch, address), owned=True)
    distributed = load()
    if client is None:
        client = _find_current(distributed)
    elif not isinstance(client, distributed.Client):
        raise TypeError(f"options['client'] must be a distributed.Client, not {client!r}")
    if client.asynchronous or getattr(client, "_asynchronous", False):
        raise ValueError(
            "options['client'] is an asynchronous client; a launch waits for its ranks, and would stop "
            "that client's event loop: give a client made without asynchronous=True, or 'address'"
        )
    connection = Connection(client, owned=False)
    if not connection.is_open:
        reason = f"the client is not connected to a scheduler ({client.status})"
        raise BackendUnavailableError(launch.start_method, reason=reason)
    return connection


def load() -> Any:
    """Return Dask's library, which takes a while to import."""
    return importlib.import_module("distributed")


def addressing() -> Any:
    """Return Dask's functions for addresses."""
    return importlib.import_module("distributed.comm.addressing")


def _find_current(distributed: Any) -> Any:
    try:
        return distributed.get_client()
    except ValueError:
        raise ValueError(
            "start method 'dask' finds no client: make a distributed.Client first, or give one as "
            "options={'client': client}, or a scheduler as options={'address': 'tcp://HOST:PORT'}"
        ) from None


def _connect(launch: Launch, address: Any) -> Any:
    if not isinstance(address, str) or not address:
        raise TypeError(f"options['address'] must be a str, not {address!r}")
    distributed = load()
    try:
        _probe(address)
        return distributed.Client(address, timeout=_CONNECT_TIME, set_as_default=False)
    except (OSError, *TIMEOUTS) as error:
        reason = f"no Dask scheduler answers at {address!r}: {error}"
        raise BackendUnavailableError(launch.start_method, reason=reason) from None


def _probe(address: str) -> None:
    """Look whether a scheduler is there.

    A client would try again and again where nobody listens, and wait for ever where nobody answers.

    Raises:
        OSError: there is none.
    """
    parse = addressing()
    try:
        scheme, location = parse.parse_address(address)
        if scheme not in _PLAIN:
            return
        where = parse.parse_host_port(location, _PORT)
    except ValueError as error:
        raise ValueError(f"options['address']: {address!r} is no address: {error}") from None
    with socket.create_connection(where, _CONNECT_TIME) as sock:
        if scheme == "tcp" and not sock.recv(1):  # a scheduler speaks first; not so by TLS
            raise ConnectionError("who listens there is none")
