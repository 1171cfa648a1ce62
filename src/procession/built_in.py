"""The backends of the core, which are had without the registry as long as nobody else has needed that."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procession.protocol import Backend

BUILT_IN = {
    "fork": "procession.backends.fork:ForkBackend",
    "spawn": "procession.backends.spawn:SpawnBackend",
    "forkserver": "procession.backends.forkserver:ForkserverBackend",
    "command": "procession.backends.command:CommandBackend",
}
"""What the core provides; equal to the entry points in its pyproject.toml."""


def get_built_in(name: object) -> Backend | None:
    """Return the backend of a name if that can mean no other and it can be used here; else ask the registry.

    The registry's modules take a third of the time that a script's first launch would spend on imports.
    """
    if (
        not isinstance(name, str)
        or name not in BUILT_IN
        or "procession.registration" in sys.modules
    ):
        return None
    backend: Backend = import_built_in(name)()
    return backend if backend.availability().ok else None


def import_built_in(name: str) -> Any:
    """Import a backend of the core by a statement that tools for frozen applications can see."""
    if name == "fork":
        from procession.backends.fork import ForkBackend

        return ForkBackend
    if name == "spawn":
        from procession.backends.spawn import SpawnBackend

        return SpawnBackend
    if name == "command":
        from procession.backends.command import CommandBackend

        return CommandBackend
    from procession.backends.forkserver import ForkserverBackend

    return ForkserverBackend
