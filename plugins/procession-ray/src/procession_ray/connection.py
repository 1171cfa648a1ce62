"""This process's connection to Ray: the one it has, or one for as long as launches need it."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
from typing import Any

from procession import BackendUnavailableError
from procession_ray.options import Options

_PROBE_TIME = 3.0  # seconds for a cluster to answer: `ray.init` would try for minutes

_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # an empty frame of that type

_lock = threading.RLock()
_users = 0  # launches that need the connection that this module has made


def ray() -> Any:
    """Return Ray, which takes a second to import."""
    return importlib.import_module("ray")


class Connection:
    """One launch's use of Ray."""

    def __init__(self) -> None:
        self._counts = False

    def open(self, options: Options) -> None:
        """Have this process connected.

        Raises:
            BackendUnavailableError: there is no cluster at the address.
            ValueError: this process is connected to another.
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
        """End this use; the last of a connection that is not the user's own ends it.  May be called twice."""
        global _users
        with _lock:
            if not self._counts:
                return
            self._counts = False
            _users -= 1
            if _users == 0:
                ray().shutdown()


def _connect(options: Options) -> None:
    """Connect to the cluster that `ray.init` would find, or start one as it does.

    Raises:
        BackendUnavailableError: nothing answers there.
    """
    address = _find_address(options.address)
    if address is not None:
        _probe(address)
    more = {"log_to_driver": options.log_to_driver, "namespace": options.namespace}
    with _KeptHandler():
        ray().init(address=options.address, **more)


class _KeptHandler:
    """Keeps SIGTERM's handler, which `ray.init` replaces."""

    def __enter__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


def _find_address(given: str | None) -> str | None:
    """Return the address that `ray.init` will use; None where it will start a cluster, or decides itself."""
    if given not in (None, "auto"):
        return None if given == "local" else given
    if os.environ.get("RAY_ADDRESS"):
        return _find_address(os.environ["RAY_ADDRESS"])
    try:  # what `ray start` has noted on this machine; there is no public way to it
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
            hint="start it there with `ray start --head`, or give another, or 'local', in options['address']",
        ) from None


def _greet(sock: socket.socket) -> None:
    """See whether this is gRPC, as all of Ray is: a server answers with a frame of settings (RFC 9113, 3.4).

    Raises:
        OSError: it is not.
    """
    sock.settimeout(_PROBE_TIME)
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
    answer = sock.recv(4)
    if answer[3:4] != _SETTINGS[3:4]:
        raise ConnectionError("it is another kind of server")


def _check_own(address: str | None) -> None:
    """Refuse another cluster than the one that this process is connected to, or one that is gone."""
    if importlib.import_module("ray.util.client").ray.is_connected():
        return
    connected: str = ray().get_runtime_context().gcs_address
    _probe(connected)
    if address in (None, "auto", "local"):
        return
    if connected.rpartition(":")[2] != address.rpartition(":")[2]:
        raise ValueError(
            f"options['address'] is {address!r}, but this process is connected to Ray at {connected!r}; call "
            "ray.shutdown() first, or leave it out"
        )
