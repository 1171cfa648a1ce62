"""For engines whose workers cannot reach the caller: carries agents' connections in calls of the engine."""

from procession.remote.relay.ends import CallerRelay, Carrier, WorkerRelay
from procession.remote.relay.tunnel import Item

__all__ = ["CallerRelay", "Carrier", "Item", "WorkerRelay"]
