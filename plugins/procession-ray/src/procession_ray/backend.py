"""The backend: connects to Ray, reserves resources, and places the core's agents by Ray."""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING

from procession import Availability, Capabilities, Launch, Started
from procession.remote import CAPABILITIES, Agents, read_common, start_agents
from procession_ray.options import NAMES, Options, read_options

if TYPE_CHECKING:
    from procession_ray.connection import Connection
    from procession_ray.placed import Placed


class RayBackend:
    """Starts ranks on the nodes of a Ray cluster: see `procession_ray.options.Options`."""

    name: str = "ray"
    protocol_version: int = 1
    capabilities: Capabilities = CAPABILITIES
    options: frozenset[str] = NAMES

    def availability(self) -> Availability:
        """Return whether Ray is installed; `start` finds out whether there is a cluster."""
        if importlib.util.find_spec("ray") is None:
            return Availability(False, "Ray is not installed", "pip install ray")
        return Availability(True)

    def start(self, launch: Launch) -> Started:
        """Start the ranks, each in a bundle of one placement group.

        Raises:
            TypeError, ValueError: an option is bad.
            BackendUnavailableError: there is no cluster at the address.
            StartError: the cluster has too few resources, or not all ranks began in time.
        """
        from procession_ray.connection import Connection

        options = read_options(launch.options)
        patience = read_common(launch.options).start_timeout
        connection = Connection()
        try:
            connection.open(options)
            started = start_agents(launch, lambda agents: _place(agents, options, patience))
        except BaseException:
            connection.release()
            raise
        return _release_at_the_end(started, connection)


def _place(agents: Agents, options: Options, patience: float) -> Placed:
    from procession_ray.placed import Placed

    placed = Placed(agents, options, time.monotonic() + patience)
    try:
        placed.begin()
    except BaseException:
        placed.end(0)
        raise
    return placed


def _release_at_the_end(started: Started, connection: Connection) -> Started:
    """Release the connection once the launch has finished."""
    finish = started.on_finish

    def finish_and_release() -> None:
        if finish is not None:
            finish()
        connection.release()

    return started.replace(on_finish=finish_and_release)
