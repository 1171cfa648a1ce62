"""The module of a plugin whose backend starts nothing; `installing.write_plugin` gives it its name."""

from __future__ import annotations

from procession import Availability, Capabilities, Launch, Started

made: list[Backend] = []
"""The instances, which the registry must make once."""


class Backend:
    """A backend that passes all checks and cannot start ranks."""

    name = "NAME"
    protocol_version = 1
    capabilities = Capabilities()

    def __init__(self) -> None:
        made.append(self)

    def availability(self) -> Availability:
        return Availability(True)

    def start(self, launch: Launch) -> Started:
        raise NotImplementedError
