"""Finds the client of a launch: the given one, the current one, or a new one."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from procession import BackendUnavailableError, Launch

CALL_TIME = 5.0
"""Seconds within which a scheduler must answer."""

_CONNECT_TIME = 3.0  # seconds for a connection to the scheduler
_PORT = 8786  # Dask's own default
_PLAIN = ("tcp", "tls", "ws", "wss", "ucx")  # schemes with addresses of the form host:port

TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
"""What a timeout raises; the two are the same class from Python 3.11 on."""


class Connection:
    """A client, and whether the launch closes it."""

    def __init__(self, client: Any, *, owned: bool) -> None:
        self.client = client
        self._owned = owned

    def ask(self, call: Callable[..., Awaitable[Any]], *args: Any, patience: float | None) -> Any:
        """Run a coroutine function on the client's event loop, and return its result.

        Raises:
            TimeoutError: it took longer than ``patience`` seconds; None is no limit.
            Exception: what the coroutine raises.
        """
        try:
            return self.client.sync(call, *args, callback_timeout=patience)
        except TIMEOUTS as error:
            raise TimeoutError(str(error)) from None

    @property
    def is_open(self) -> bool:
        """Whether the client is connected to the scheduler."""
        return bool(self.client.status == "running")

    def close(self) -> None:
        """Close the client if the launch made it.  May be called again."""
        if self._owned:
            self.client.close()


def find_client(launch: Launch) -> Connection:
    """Return the connection of a launch.

    Raises:
        TypeError, ValueError: there is no client, or the options name one that cannot be used.
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
            "options['client'] is an asynchronous client, and a launch would block its event loop while "
            "it waits for its ranks: give a client made without asynchronous=True, or 'address'"
        )
    connection = Connection(client, owned=False)
    if not connection.is_open:
        reason = f"the client is not connected to a scheduler ({client.status})"
        raise BackendUnavailableError(launch.start_method, reason=reason)
    return connection


def load() -> Any:
    """Import and return ``distributed``, which takes a while."""
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
    """Check that a scheduler answers.

    A client would retry for long if no program listens, and wait forever if the program does not answer.

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
        raise ValueError(f"options['address']: {address!r} is not an address: {error}") from None
    with socket.create_connection(where, _CONNECT_TIME) as sock:
        if scheme == "tcp" and not sock.recv(1):  # a scheduler sends first, except over TLS
            raise ConnectionError("the program that listens there is no scheduler")
