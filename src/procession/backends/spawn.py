"""The spawn start method: each rank is a new interpreter that imports only what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procession._launch.platform import get_availability, get_capabilities, missing_mechanism
from procession._python.interpreter import start_interpreter
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started

if TYPE_CHECKING:
    from subprocess import Popen

    from procession.commands import Command


class SpawnBackend:
    """Starts ranks as new interpreters; fn and args are pickled once for all of them."""

    name: str = "spawn"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset()

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do on this platform."""
        return get_capabilities(self.name)

    def availability(self) -> Availability:
        """Say whether this platform can start interpreters; all can, if there is one to start."""
        return get_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Start one interpreter per rank."""
        if missing_mechanism():
            from procession.backends.portable import start

            return start(launch, "spawn")
        from procession.commands import start_commands

        return start_commands(launch, _start)


def _start(command: Command) -> Popen[Any]:
    return start_interpreter(
        command.argv, pass_fds=command.pass_fds, env=command.env, new_session=False
    )
