"""The backend: finds a client and places for the ranks; the core's agents do the rest."""

from __future__ import annotations

from importlib.util import find_spec

from procession import Availability, Launch, Started
from procession.remote import CAPABILITIES, OPTIONS, Agents, read_common, start_agents

TRANSPORTS = ("auto", "connect", "dask")
"""The ways in which an agent reaches its caller; see `DaskBackend`."""


class DaskBackend:
    """Starts ranks as children of a Dask cluster's workers, each in the place of one worker thread.

    The options are those of `procession.remote` except ``python``, since ranks run their worker's
    interpreter, and these:

    ``client`` (a `distributed.Client`) or ``address`` (of a scheduler, to which the launch makes a client);
    without either, the launch uses the current client.  ``workers``: a list of addresses; only these workers
    get ranks, and they are filled in this order.  ``transport``: ``"connect"`` (agents connect to this
    process), ``"dask"`` (their messages use Dask's own connections) or ``"auto"`` (the default: each worker
    tests whether it can connect).
    """

    name = "dask"
    protocol_version = 1
    capabilities = CAPABILITIES
    options = (OPTIONS - {"python"}) | {"client", "address", "workers", "transport"}

    def availability(self) -> Availability:
        """Return whether Dask is installed; `start` finds out whether there is a cluster."""
        if find_spec("distributed") is not None:
            return Availability(True)
        return Availability(False, "Dask is not installed", "pip install distributed")

    def start(self, launch: Launch) -> Started:
        """Start one agent a rank, on workers with free threads."""
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
