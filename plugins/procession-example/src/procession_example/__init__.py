"""Start methods that put a command before each rank: nice, taskset, numactl, strace, unshare or another."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from procession import Availability, Launch, RankPlace, Started
from procession.commands import CAPABILITIES, Command, availability, start_commands


class PrefixBackend:
    """Starts each rank as ``PROGRAM ARGUMENTS... PYTHON ...``.

    The option ``arguments`` is a list of str, the same for all ranks, or a function from a
    `RankPlace` to one.
    """

    protocol_version = 1
    capabilities = CAPABILITIES
    options = frozenset({"arguments"})

    def __init__(self, name: str, *program: str) -> None:
        self.name = name
        self._program = program

    def availability(self) -> Availability:
        """Return whether the program is on PATH."""
        for program in self._program[:1]:
            if shutil.which(program) is None:
                return Availability(False, f"{program} is not on PATH", f"install {program}")
        return availability()

    def start(self, launch: Launch) -> Started:
        """Start one command a rank."""
        places = RankPlace.plan(launch.nprocs, remote=False)
        prefixes = [self._prefix(launch, place) for place in places]

        def start(command: Command) -> subprocess.Popen[Any]:
            return subprocess.Popen(
                [*prefixes[command.rank], *command.argv],
                env=command.env,
                pass_fds=command.pass_fds,
                stdin=subprocess.DEVNULL,
            )

        return start_commands(launch, start)

    def _prefix(self, launch: Launch, place: RankPlace) -> list[str]:
        given = launch.options.get("arguments", [])
        arguments = given(place) if callable(given) else given
        if isinstance(arguments, str) or not all(isinstance(one, str) for one in arguments):
            raise TypeError(f"option 'arguments' must be a list of str, not {arguments!r}")
        prefix = [*self._program, *arguments]
        if not prefix:
            raise ValueError("start method 'prefix' needs options={'arguments': [PROGRAM, ...]}")
        return prefix


prefix = PrefixBackend("prefix")
nice = PrefixBackend("nice", "nice")
taskset = PrefixBackend("taskset", "taskset")
numactl = PrefixBackend("numactl", "numactl")
strace = PrefixBackend("strace", "strace", "-f")
unshare = PrefixBackend("unshare", "unshare")
