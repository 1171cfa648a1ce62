"""The spec: what a rank is and does, as its caller writes it down; `marshal` carries it.

Only type checkers need this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from procession._rank.locations import Locations


class RankSpec(TypedDict):
    """What every rank of a launch needs to know."""

    start_method: str
    context: str  # the multiprocessing context that the rank seems to come from; empty: none
    launch_id: str
    nprocs: int
    place: tuple[int, int] | None  # LOCAL_RANK and LOCAL_WORLD_SIZE; None: one host
    daemon: bool
    forked: bool
    wants_results: bool
    prints_errors: bool
    parent_pid: int
    parent_name: str
    authkey: bytes
    identity: tuple[int, ...]
    tracker: int  # descriptor of the resource tracker, -1 for none
    entry: tuple[str, Any] | None  # what the rank calls first ("module:function"), its argument
    coverage: tuple[str, str | None] | None  # how to measure the rank, see `coverage`
    exit_barrier: list[int]  # both ends of its pipe; empty: no barrier


class BootstrapSpec(RankSpec):
    """What a rank needs besides, if it did not inherit its caller's memory."""

    sys_path: list[str]
    argv: list[str]
    cwd: str | None
    main: tuple[str, str] | None  # how to import __main__ ("path" or "name"), and which
    sources: dict[str, str]  # source text of code that has no file, for tracebacks
    locations: Locations  # of modules that sys_path does not lead to
    fds: list[int]  # descriptors that come with the payload
    buffers: list[int]  # sizes of the buffers outside the pickle
    imports: list[str]  # modules that unpickling certainly needs
    capabilities: tuple[int, int, int] | None  # `credentials.find_excess`
    mark: int  # for the rank to put on itself if its caller may not; else 0
