"""A backend whose ranks another one starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from procession import Availability, Capabilities, Launch, Started, get_backend


@dataclass
class Through:
    """A backend that has another one start its ranks."""

    base: str
    entry: tuple[str, Any] | None = None
    exit_barrier: bool = False
    name: str = "through"
    protocol_version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def capabilities(self) -> Capabilities:
        return get_backend(self.base).capabilities

    def availability(self) -> Availability:
        return get_backend(self.base).availability()

    def start(self, launch: Launch) -> Started:
        launch = launch.replace(entry=self.entry, exit_barrier=self.exit_barrier)
        return get_backend(self.base).start(launch)
