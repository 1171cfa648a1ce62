"""The start method command: ranks on any engine whose command line starts N processes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from procession._launch.platform import missing_mechanism
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started


class CommandBackend:
    """Starts agents with the command in the option ``command``; the agents start the ranks.

    The command is a list of str.  In it ``{nprocs}`` stands for the number of ranks, and an item ``{agent}``
    for the command line of an agent, which comes last if no item is ``{agent}``.  The option
    ``rank_variable`` (a str or a list) names the variables in which the engine tells processes their rank;
    the first one that is set counts.  Without it agents are numbered in the order in which they connect.
    See `procession.remote` for the other options.
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
        """What all start methods with agents can do."""
        from procession.remote.launching import CAPABILITIES

        return CAPABILITIES

    def availability(self) -> Availability:
        """Say whether this platform can start ranks through agents."""
        missing = missing_mechanism()
        return Availability(not missing, missing, missing and "use 'spawn'")

    def start(self, launch: Launch) -> Started:
        """Have the engine start one agent per rank."""
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
            "start method 'command' needs options={'command': [PROGRAM, ARGUMENT, ...]}, in which "
            "'{nprocs}' stands for the number of ranks and '{agent}' for the command to start once per "
            f"rank; not {template!r}"
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
