"""What the launcher passes to every rank of a launch, besides environment variables."""

from __future__ import annotations

from typing import TypedDict


class Place(TypedDict):
    """The launch as its ranks know it; the same for all of them."""

    nprocs: int
    base: str
    framework: str
    changed: list[str]  # names of the environment variables that a launch sets for its ranks
    coordinator: str
    reserved: bool  # whether the launcher keeps the coordinator's port
    local_device_ids: list[int] | None
    distributed: bool | None
    initialization_timeout: int
    heartbeat_timeout: int
    shutdown_timeout: int
