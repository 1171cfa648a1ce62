"""What a caller and its agents tell each other: the description, the hellos, and the spec of a rank.

A `Description` travels in the environment or on standard input (`placement.pack`), the others as heads of
frames (`link`).
"""

from __future__ import annotations

from typing import Literal, TypedDict


class HubDescription(TypedDict):
    """How an agent reaches its caller, and finds its rank."""

    hub: tuple[str, int]
    secret: bytes
    contact_timeout: float  # seconds
    rank_variables: list[str]  # the first that is set has the rank


class Description(HubDescription, total=False):
    """What an agent is started with."""

    rank: int  # where no variable has it
    with_parent: bool  # the agent ends when its parent does
    ends_with: int  # or when this descriptor becomes readable
    payload: int  # the descriptor of the payload, where the engine has brought it
    address: str  # of this host, for other ranks; the connection's own if it is missing


class HostHello(TypedDict):
    """What an agent says of its process and its host."""

    host: str
    pid: int
    place: list[str | int]  # equal for agents that can share files: host, boot, namespaces, user
    boot: str
    clock: int  # time.monotonic_ns
    version: list[int]
    master: list[str]  # an address and a free port, for MASTER_ADDR and MASTER_PORT


class ControlHello(HostHello):
    """What an agent says first on its control connection."""

    what: Literal["control"]
    rank: int  # -1: the hub chooses
    has_payload: bool


class ArrivedHello(ControlHello, total=False):
    """The same, as the hub keeps it."""

    offset: int  # nanoseconds that the agent's clock is behind the caller's


class EndHello(TypedDict):
    """What an agent says on the connection that ends with its rank."""

    what: Literal["end"]
    rank: int


class SpecMessage(TypedDict):
    """What an agent starts its rank with."""

    shares: bool  # other agents of its host wait for the payload that it gets
    spec: bytes  # a marshalled `BootstrapSpec`
    place: tuple[int, int]  # LOCAL_RANK and LOCAL_WORLD_SIZE
    prefix: str  # the caller's sys.prefix
    flags: list[str]  # of the interpreter
    changes: dict[str, str | None]  # to the environment
    keep_daemons: bool
    forward: list[int]  # signals to pass on to the rank
