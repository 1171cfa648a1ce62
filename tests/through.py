"""Backends that make another backend start their ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from procession import Availability, Capabilities, Launch, Started, get_backend


@dataclass
class Through:
    """Starts ranks through the backend ``base``, with an entry or an exit barrier."""

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


@dataclass
class Wrapping(Through):
    """Starts ranks through another backend, and wraps their processes in objects of the test."""

    wrap: Callable[[Any], Any] = lambda process: process
    started: list[Started] = field(default_factory=list)

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        processes = [self.wrap(process) for process in started.processes]
        self.started.append(started.replace(processes=processes))
        return self.started[-1]
