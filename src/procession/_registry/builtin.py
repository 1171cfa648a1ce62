"""The built-in backends, resolved without importing the rest of the registry."""

from __future__ import annotations

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
"""The start methods of the core, equal to the entry points in its pyproject.toml."""

replaced: set[str] = set()
"""The built-in names for which this process has registered another backend."""

_made: dict[str, Backend] = {}


def get_built_in(name: str) -> Backend:
    """Return the built-in backend of that name; make it at the first call."""
    if name not in _made:
        _made.setdefault(name, import_built_in(name)())
    return _made[name]


def import_built_in(name: str) -> Any:
    """Import a built-in backend with an import statement, which tools that freeze applications detect."""
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
