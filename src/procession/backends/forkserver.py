"""The forkserver start method: ranks are forks of a clean server that has their imports made already."""

from __future__ import annotations

import os
from typing import Any

from procession import guard
from procession.orders import tracker_fd, write_fresh_orders
from procession.platform import missing_mechanism, tell_availability, tell_capabilities
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started


class ForkserverBackend:
    """Starts ranks as forks of a server that keeps the imports of a configuration.

    The server imports fn's module, the main module where fn or args need it, and what the option
    ``preload`` names (a list of modules).  It stays for the next launch with the same configuration.
    """

    name: str = "forkserver"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset({"preload"})

    @property
    def capabilities(self) -> Capabilities:
        """What holds for it on this platform."""
        return tell_capabilities(self.name)

    def availability(self) -> Availability:
        """Tell whether this platform can fork."""
        return tell_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Have the server fork one process a rank."""
        preload = _check_preload(launch)
        if missing_mechanism():
            from procession.backends.portable import start

            return start(launch, "forkserver")
        from procession.forkservers import Configuration, start_on_server
        from procession.payload import pickle_call, write_payload
        from procession.tree import planted

        pickled = pickle_call(launch)
        orders = write_fresh_orders(launch, "forkserver", forked=True)
        orders["main"], orders["sources"], orders["cwd"] = pickled.main, pickled.sources, _cwd()
        tracker = orders["tracker"] = tracker_fd()
        request: dict[str, Any] = {
            "nprocs": launch.nprocs,
            "environment": dict(os.environ),
            "changes": [dict(changes) for changes in launch.environments],
        }
        configuration = Configuration.of_now(pickled.main, preload)
        payload = write_payload(orders, pickled)
        streams = [_stream_or_nothing(number) for number in (0, 1, 2)]
        try:
            shared = [*pickled.fds, *([tracker] if tracker >= 0 else [])]
            handed = [payload, guard.death_pipe(), *streams, *shared]
            with planted(launch, orders) as tree:
                request["mark"], request["cgroup"] = tree.mark, tree.cgroup
                return tree.attach(start_on_server(configuration, launch, request, handed))
        finally:
            for fd in (payload, *streams):
                os.close(fd)


def _check_preload(launch: Launch) -> tuple[str, ...]:
    """Return the modules to import in the server: fn's own first."""
    named = launch.options.get("preload", ())
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise TypeError(f"options['preload'] must be a list of module names, not {named!r}")
    module = getattr(launch.fn, "__module__", None)
    own = (module,) if isinstance(module, str) and module not in ("__main__", "__mp_main__") else ()
    return (*own, *(name for name in named if name not in own))


def _stream_or_nothing(number: int) -> int:
    """Return a duplicate of a standard stream; where it is closed, or for input, of the null device."""
    try:
        if number:
            return os.dup(number)
    except OSError:
        pass
    return os.open(os.devnull, os.O_RDWR)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
