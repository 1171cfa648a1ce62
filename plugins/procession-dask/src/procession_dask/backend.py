"""The backend: finds a client, and places for the ranks; the core's agents do the rest."""

from __future__ import annotations

from importlib.util import find_spec

from procession import Availability, Launch, Started
from procession.remote import CAPABILITIES, OPTIONS, Agents, read_common, start_agents

TRANSPORTS = ("auto", "connect", "dask")
"""How an agent reaches its caller; see `DaskBackend`."""


class DaskBackend:
    """Starts ranks as children of a Dask cluster's workers, each in the place of one worker thread.

    Options, besides those of `procession.remote` (but ``python``: ranks have their worker's interpreter):
    ``client`` (a `distributed.Client`), or ``address`` (of a scheduler: a client is made for the launch);
    without either, the current client.  ``workers`` (a list of addresses: they are filled in this order, and
    no others).  ``transport``: ``"connect"`` (agents connect to this process), ``"dask"`` (what they say goes
    through Dask's own connections) or ``"auto"`` (the default: each worker finds out whether it can connect).
    """

    name = "dask"
    protocol_version = 1
    capabilities = CAPABILITIES
    options = (OPTIONS - {"python"}) | {"client", "address", "workers", "transport"}

    def availability(self) -> Availability:
        """Tell whether Dask is installed; whether a cluster is there, the start finds out."""
        if find_spec("distributed") is not None:
            return Availability(True)
        return Availability(False, "Dask is not installed", "pip install distributed")

    def start(self, launch: Launch) -> Started:
        """Start one agent a rank, on workers that have threads to spare."""
        from procession_dask.clients import find_client
        from procession_dask.placing import DaskPlacement
        from procession_dask.slots import find_slots, read_workers

        patience = read_common(launch.options).start_timeout
        transport = _read_transport(launch)
        workers = read_workers(launch)
        connection = find_client(launch)
        try:
            plan = find_slots(connection, launch, workers, patience)

            def place(agents: Agents) -> DaskPlacement:
                return DaskPlacement(connection, plan, launch, agents).begin(transport)

            return start_agents(launch, place)
        except BaseException:
            connection.close()
            raise


def _read_transport(launch: Launch) -> str:
    given = launch.options.get("transport")
    if given is not None and given not in TRANSPORTS:
        raise ValueError(
            f"options['transport'] must be {' or '.join(map(repr, TRANSPORTS))}, not {given!r}"
        )
    return given or "auto"
