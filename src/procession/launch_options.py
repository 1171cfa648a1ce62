"""The keywords of all calls that start ranks, documented once.

A caller does not import this module: `procession.api` names the class for type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict

from procession.protocol import Signals
from procession.rank_place import RankPlace

EnvChanges: TypeAlias = "Mapping[str, str | None]"
Env: TypeAlias = "EnvChanges | Callable[[RankPlace], EnvChanges] | None"


class LaunchOptions(TypedDict, total=False):
    """Keywords of `start_processes` and `run`.  Times are in seconds."""

    name: str | None
    """What log messages call the launch; None: the function's name."""

    env: Env
    """Environment variables for all ranks, or a function that takes a `RankPlace` and returns them.
    They are in force before a rank imports or unpickles anything.  None as a value removes a variable."""

    timeout: float | None
    """Total deadline of the launch, counted from the call, including the start of local ranks.  When it
    passes, the ranks are stopped and `ProcessTimeoutError` is raised."""

    grace_period: float | None
    """Time that ranks have to end by themselves between SIGTERM and SIGKILL.  After a failure the same time
    also passes before SIGTERM, as in torch.  None: 5; after a failure 30 for ranks that have a handler for
    SIGTERM; 25 if the caller got SIGTERM or SIGHUP."""

    options: Mapping[str, Any] | None
    """Options of the start method."""

    allow_early_exit: bool
    """Count a rank that exits with code 0 before fn has returned as successful."""

    keep_daemons: bool
    """Leave the processes that ranks start alone, except in the process groups of ranks that fail or are
    stopped.  Without it, processes in a rank's group end with the rank; processes in other sessions end
    when a rank fails or is stopped, or when the caller dies."""

    collect_results: bool
    """With ``join=False``: keep what fn returns for `ProcessContext.results`.  `run` always keeps it."""

    rendezvous: bool | None
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR and MASTER_PORT in each
    rank.  The caller's MASTER_ADDR and MASTER_PORT are kept if both are set and RANK is not; ``env``
    overrides all of them.  None: on for ``xla`` and ranks on other hosts, off for others."""

    fail_fast: bool
    """False: when a rank fails, the others continue, and all failures are raised together at the end."""

    supervise: bool
    """With ``join=False``: a daemon thread of the caller acts on failures at once.  Without it, the next
    wait acts on them, or else the interpreter's exit."""

    signals: Signals | None
    """What signals mean for this launch."""
