"""What an engine is asked to do, agents to place, and what it answers, their placement."""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from procession._python.interpreter import compose_command

if TYPE_CHECKING:
    from procession.protocol import Launch
    from procession.remote.hub import Hub
    from procession.remote.options import Common

VARIABLE = "PROCESSION_AGENT"
"""The variable that tells an agent its caller's address, and the launch's secret."""


class Agents(NamedTuple):
    """The agents of a launch, one a rank, as their engine is to start them.

    ``argv`` is the command of each, the same for all; ``description`` is the value that its environment
    must have for `VARIABLE`, and contains the launch's secret: it must not be shown in an argument, which
    anybody can see.  An agent without that variable reads it from the first line of its standard input.
    ``payload`` is the descriptor of a file with the pickled fn and args, for an engine that can bring it to
    its workers itself: see `hosting.host_agent`.
    """

    nprocs: int
    argv: tuple[str, ...]
    description: str
    payload: int

    @property
    def environment(self) -> dict[str, str]:
        """What the environment of each agent must have besides."""
        return {VARIABLE: self.description}


def describe_agents(
    launch: Launch,
    hub: Hub,
    payload: int,
    rank_variables: Sequence[str],
    options: Common,
    *,
    with_parent: bool = False,
) -> Agents:
    """Return the agents that connect to an address, and find their rank in the first variable set."""
    module = "procession.remote.agent"
    argv = (
        compose_command(module, "main", ())
        if options.python is None
        else [options.python, "-m", module]
    )
    description = {
        "hub": hub.address,
        "secret": hub.secret,
        "rank_variables": list(rank_variables),
        "with_parent": with_parent,
        "contact_timeout": options.contact_timeout,
    }
    return Agents(launch.nprocs, tuple(argv), pack(description), payload)


def pack(description: Mapping[str, object]) -> str:
    """Return a description as the value of an environment variable."""
    return marshal.dumps(dict(description)).hex()


def unpack(text: str) -> dict[str, Any]:
    """Return the description that `pack` made a text of.

    Raises:
        ValueError: it is none.
    """
    try:
        description: dict[str, Any] = marshal.loads(bytes.fromhex(text))
    except (EOFError, TypeError) as error:
        raise ValueError(str(error)) from None
    return description


class Placement(Protocol):
    """Agents that an engine was asked to start: queued, starting, or running."""

    def failure(self) -> str:
        """Return why no more of them will come; an empty string as long as they may.  Never blocks."""
        ...

    def explain(self) -> str:
        """Return what the engine says of those that have not come in time; may take a second or two."""
        ...

    def begun(self) -> None:
        """Take note that all agents have come, and each has started its rank."""

    def end(self, patience: float) -> None:
        """Have nothing left at the engine, queued or running, and wait for that.

        The agents end by themselves, and have ``patience`` seconds for it.  May be called again.
        """
