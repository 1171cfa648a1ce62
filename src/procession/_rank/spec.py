"""What a rank is to do and to be, as its launcher writes it down; `marshal` carries it.

No rank imports this module: only type checkers do.
"""

from __future__ import annotations

from typing import Any, TypedDict

from procession._rank.locations import Locations


class RankSpec(TypedDict):
    """What every rank of a launch needs to know."""

    start_method: str
    context: str  # the multiprocessing context whose names the rank takes on; empty: none
    launch_id: str
    nprocs: int
    place: tuple[int, int] | None  # LOCAL_RANK and LOCAL_WORLD_SIZE, unless all are on one host
    daemon: bool
    forked: bool
    wants_results: bool
    prints_errors: bool
    parent_pid: int
    parent_name: str
    authkey: bytes
    identity: tuple[int, ...]
    tracker: int  # descriptor of the resource tracker, -1 for none
    entry: tuple[str, Any] | None  # what the rank calls first, as "module:function"
    coverage: tuple[str, str | None] | None  # how to measure it, see `coverage`; mostly not
    exit_barrier: list[int]  # both ends of its pipe, or none


class BootstrapSpec(RankSpec):
    """What a rank needs besides, if it did not inherit its parent's memory."""

    sys_path: list[str]
    argv: list[str]
    cwd: str | None
    main: tuple[str, str] | None  # how to import __main__ ("path" or "name"), and which
    sources: dict[str, str]  # source text of code that has no file, for tracebacks
    locations: Locations  # of modules that are not on sys_path
    fds: list[int]  # descriptors handed over with the payload
    buffers: list[int]  # sizes of what the pickle leaves out
    imports: list[str]  # modules that it is sure to need
    capabilities: tuple[int, int, int] | None  # `credentials.find_excess`
    mark: int  # for the rank to put on itself, where its launcher may not; else 0
