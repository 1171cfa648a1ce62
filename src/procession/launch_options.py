"""The keywords that every launching call takes, written down once.

A launcher does not import this module: `procession.api` names the class to type checkers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict

from procession.protocol import Signals

EnvChanges: TypeAlias = "Mapping[str, str | None]"
Env: TypeAlias = "EnvChanges | Callable[[int], EnvChanges] | None"


class LaunchOptions(TypedDict, total=False):
    """Keywords of `start_processes` and `run`.  Times are in seconds."""

    name: str | None
    """What the log calls a launch that nobody has joined; None: the function's name."""

    env: Env
    """Environment variables for all ranks, or a function from rank to such a mapping.  They are in
    force before a rank imports or unpickles anything.  None as a value removes a variable."""

    timeout: float | None
    """Total deadline of the launch, from the call, the start of local ranks included: the ranks are then
    stopped, and `ProcessTimeoutError` is raised."""

    grace_period: float | None
    """How long ranks may take to end by themselves between SIGTERM and SIGKILL.  After a failure it
    also passes before SIGTERM, as in torch.  None: 5, or 30 after a failure for ranks that have a handler
    for SIGTERM, or 25 where the caller got SIGTERM or SIGHUP."""

    options: Mapping[str, Any] | None
    """What only this start method understands."""

    allow_early_exit: bool
    """Count a rank as successful that exits with code 0 before fn has returned."""

    keep_daemons: bool
    """Leave alone what ranks have started, except in the process groups of ranks that fail or are
    stopped.  Otherwise what is in a rank's group ends with the rank, and what is in a session of its
    own ends when a rank fails or is stopped, or when the caller dies."""

    collect_results: bool
    """With ``join=False``: keep what fn returns, for `ProcessContext.results`.  `run` always does."""

    rendezvous: bool | None
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR and MASTER_PORT in each
    rank.  A caller's own MASTER_ADDR and MASTER_PORT are kept where both are set and RANK is not; ``env``
    wins over all.  None: on for ``xla`` and ranks on other hosts, off for others."""

    fail_fast: bool
    """False: the others go on when a rank fails, and all failures are raised together at the end."""

    supervise: bool
    """With ``join=False``: a daemon thread of the caller acts on failures at once.  Without it they
    are acted on when somebody waits, or at the interpreter's exit."""

    signals: Signals | None
    """What signals mean for this launch."""
