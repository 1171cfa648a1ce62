"""The start method command: any engine whose command starts N others, by a template of that command."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from procession._launch.platform import missing_mechanism
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started


class CommandBackend:
    """Starts agents by the command in the option ``command``, and they start the ranks.

    The command is a list of str in which ``{nprocs}`` stands for the number of ranks, and ``{agent}``,
    alone, for the command of an agent; without it, that comes last.  The option ``rank_variable`` names the
    variables (a str or a list) in which the engine tells its processes their rank: the first that is set
    counts; without it, they are numbered as they come.  See `procession.remote` for the others.
    """

    name: str = "command"
    protocol_version: int = PROTOCOL_VERSION

    @property
    def options(self) -> frozenset[str]:
        """The names of its options."""
        from procession.remote.options import OPTIONS

        return OPTIONS | {"command", "rank_variable"}

    @property
    def capabilities(self) -> Capabilities:
        """What holds for ranks that agents hold."""
        from procession.remote.launching import CAPABILITIES

        return CAPABILITIES

    def availability(self) -> Availability:
        """Tell whether this platform can have ranks elsewhere."""
        missing = missing_mechanism()
        return Availability(not missing, missing, missing and "use 'spawn'")

    def start(self, launch: Launch) -> Started:
        """Have the engine start one agent a rank."""
        from procession.remote.engine import start_by_command
        from procession.remote.placement import Agents

        template = _check_command(launch)
        variables = _check_variables(launch)

        def compose(agents: Agents) -> Sequence[str]:
            command: list[str] = []
            for part in template:
                if part == "{agent}":
                    command += agents.argv
                else:
                    command.append(part.replace("{nprocs}", str(agents.nprocs)))
            return command

        return start_by_command(launch, compose, rank_variables=variables)


def _check_command(launch: Launch) -> list[str]:
    template = launch.options.get("command")
    if not template or isinstance(template, str) or not _are_str(template):
        raise TypeError(
            "start method 'command' needs options={'command': [PROGRAM, ARGUMENT, ...]}, where "
            "'{nprocs}' is the number of ranks and '{agent}' what is to be started as often; not "
            f"{template!r}"
        )
    if shutil.which(template[0]) is None:
        raise FileNotFoundError(f"options['command']: there is no program {template[0]!r} here")
    return [*template] if "{agent}" in template else [*template, "{agent}"]


def _check_variables(launch: Launch) -> list[str]:
    given = launch.options.get("rank_variable") or []
    variables = [given] if isinstance(given, str) else given
    if not _are_str(variables):
        raise TypeError(f"options['rank_variable'] must be a str or a list of str, not {given!r}")
    return list(variables)


def _are_str(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(one, str) for one in values)
