"""For engines whose workers cannot reach the caller: agents' connections travel in the engine's own calls."""

from procession.remote.relay.ends import CallerRelay, Carrier, WorkerRelay
from procession.remote.relay.tunnel import Item

__all__ = ["CallerRelay", "Carrier", "Item", "WorkerRelay"]
