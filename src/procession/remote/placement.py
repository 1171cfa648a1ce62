"""The interface to engines: `Agents` to start, and their `Placement`."""

from __future__ import annotations

import marshal
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from procession._python.interpreter import compose_command
from procession.remote.messages import Description

if TYPE_CHECKING:
    from procession.protocol import Launch
    from procession.remote.hub import Hub
    from procession.remote.options import Common

SHARED_FROM = 1 << 20
"""The smallest payload, in bytes, that is sent once to each host rather than to each agent."""

VARIABLE = "PROCESSION_AGENT"
"""The environment variable with the address of an agent's caller and the secret of the launch."""


class Agents(NamedTuple):
    """The agents that an engine should start for a launch, one for each rank.

    ``argv`` is the command line, the same for all.  ``description`` is the value for `VARIABLE` in the
    environment of each agent.  It contains the launch's secret, so it must not appear in arguments, which all
    users of a machine can read.  An agent without that variable reads it from the first line of its standard
    input.  ``payload`` is the descriptor of a file with the pickled fn and args, for an engine that can
    deliver it to its workers: see `host_agent`.
    """

    nprocs: int
    argv: tuple[str, ...]
    description: str
    payload: int

    @property
    def hub(self) -> tuple[str, int]:
        """The address of the hub, to which agents connect."""
        host, port = unpack(self.description)["hub"]
        return host, port

    @property
    def contact_timeout(self) -> float:
        """The option of that name: the seconds for which a connection may be silent."""
        return float(unpack(self.description)["contact_timeout"])

    @property
    def shares_payload(self) -> bool:
        """Whether the payload is so large that each host should get it only once."""
        return os.fstat(self.payload).st_size >= SHARED_FROM

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the environment of each agent must have in addition."""
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
    """Return the agents of a launch; they find their rank in the first of ``rank_variables`` that is set."""
    module = "procession.remote.agent"
    argv = (
        compose_command(module, "main", ())
        if options.python is None
        else [options.python, "-m", module]
    )
    description: Description = {
        "hub": hub.address,
        "secret": hub.secret,
        "rank_variables": list(rank_variables),
        "with_parent": with_parent,
        "contact_timeout": options.contact_timeout,
    }
    return Agents(launch.nprocs, tuple(argv), pack(description), payload)


def pack(description: Mapping[str, object]) -> str:
    """Pack a description into the value of an environment variable."""
    return marshal.dumps(dict(description)).hex()


def unpack(text: str) -> Description:
    """Unpack a description that `pack` has packed.

    Raises:
        ValueError: the text is not a description.
    """
    try:
        description: Description = marshal.loads(bytes.fromhex(text))
    except (EOFError, TypeError) as error:
        raise ValueError(str(error)) from None
    return description


class Placement(Protocol):
    """The agents that an engine was asked to start: queued, starting, or running."""

    def failure(self) -> str:
        """Return why no more agents will arrive; an empty string while they may.  Never blocks."""
        ...

    def explain(self) -> str:
        """Return what the engine says about agents that did not arrive in time; may take a second or two."""
        ...

    def begun(self) -> None:
        """Called once all agents have arrived and started their ranks."""

    def end(self, patience: float) -> None:
        """Remove everything from the engine, queued or running, and wait until that is done.

        The agents end by themselves; give them ``patience`` seconds.  May be called again.
        """
