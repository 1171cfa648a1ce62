"""This process's connection to Ray: an existing one, or a new one that lasts as long as launches need it."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
from typing import Any

from procession import BackendUnavailableError
from procession_ray.options import Options

_PROBE_TIME = 3.0  # seconds for a cluster to answer; `ray.init` alone tries for minutes

_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # an empty HTTP/2 frame of type SETTINGS

_lock = threading.RLock()
_users = 0  # the number of launches that need the connection that this module made


def ray() -> Any:
    """Import and return Ray, which takes a second."""
    return importlib.import_module("ray")


class Connection:
    """One launch's use of Ray."""

    def __init__(self) -> None:
        self._counts = False

    def open(self, options: Options) -> None:
        """Connect this process, unless it is connected.

        Raises:
            BackendUnavailableError: there is no cluster at the address.
            ValueError: this process is connected to another cluster.
        """
        global _users
        with _lock:
            if _users == 0 and ray().is_initialized():
                _check_own(options.address)
                return
            _users += 1
            self._counts = True
            if _users == 1:
                _connect(options)

    def release(self) -> None:
        """End this use.  The last one ends a connection that `open` made.  May be called twice."""
        global _users
        with _lock:
            if not self._counts:
                return
            self._counts = False
            _users -= 1
            if _users == 0:
                ray().shutdown()


def _connect(options: Options) -> None:
    """Connect to the cluster that `ray.init` finds, or start one as it does.

    Raises:
        BackendUnavailableError: no cluster answers at the address.
    """
    address = _find_address(options.address)
    if address is not None:
        _probe(address)
    more = {"log_to_driver": options.log_to_driver, "namespace": options.namespace}
    with _KeptHandler():
        ray().init(address=options.address, **more)


class _KeptHandler:
    """Restores SIGTERM's handler, which `ray.init` replaces."""

    def __enter__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


def _find_address(given: str | None) -> str | None:
    """Return the address that `ray.init` will use; None if it starts a cluster, or decides itself."""
    if given not in (None, "auto"):
        return None if given == "local" else given
    if os.environ.get("RAY_ADDRESS"):
        return _find_address(os.environ["RAY_ADDRESS"])
    try:  # the address that `ray start` recorded on this machine; Ray has no public function for it
        known = importlib.import_module("ray._private.utils").read_ray_address()
    except (AttributeError, ImportError, OSError):
        return None
    return known or None


def _probe(address: str) -> None:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"options['address']: {address!r} is not 'host:port'")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_TIME) as sock:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                _greet(sock)
    except OSError as error:
        raise BackendUnavailableError(
            "ray",
            reason=f"no Ray answers at the address {address}: {error}",
            hint="start it there with `ray start --head`, or set options['address'] to another or 'local'",
        ) from None


def _greet(sock: socket.socket) -> None:
    """Check that the server speaks gRPC, as Ray does: it answers with a SETTINGS frame (RFC 9113, 3.4).

    Raises:
        OSError: it does not.
    """
    sock.settimeout(_PROBE_TIME)
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
    answer = sock.recv(4)
    if answer[3:4] != _SETTINGS[3:4]:
        raise ConnectionError("the server there is not Ray")


def _check_own(address: str | None) -> None:
    """Raise if this process is connected to another cluster, or its cluster is gone."""
    if importlib.import_module("ray.util.client").ray.is_connected():
        return
    connected: str = ray().get_runtime_context().gcs_address
    _probe(connected)
    if address in (None, "auto", "local"):
        return
    if connected.rpartition(":")[2] != address.rpartition(":")[2]:
        raise ValueError(
            f"options['address'] is {address!r}, but this process is connected to Ray at {connected!r}; call "
            "ray.shutdown() first, or leave this option out"
        )
