"""The calls: `start_processes`, `spawn`, `run`, `get_context`.

What they need is imported when they are called: a rank imports the launcher's main module, and that
imports these names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, overload

    from typing_extensions import TypeVarTuple, Unpack

    from procession.context import ProcessContext
    from procession.protocol import Backend

    R = TypeVar("R")
    Ts = TypeVarTuple("Ts")
    EnvChanges: TypeAlias = Mapping[str, "str | None"]
    Env: TypeAlias = "EnvChanges | Callable[[int], EnvChanges] | None"
    StartMethod: TypeAlias = "str | Backend | None"

    class LaunchKeywords(TypedDict, total=False):
        """What all calls take by keyword."""

        daemon: bool
        env: Env
        grace_period: float | None
        timeout: float | None
        allow_early_exit: bool
        keep_daemons: bool
        options: Mapping[str, Any] | None


# Apart, as mypy wants nothing else beside overloads; spelled out, since pyright does not match
# ``**dict`` with ``**keywords: Unpack[...]`` of several.
if TYPE_CHECKING:

    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] = (),
        nprocs: int | None = 1,
        join: Literal[True] = True,
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        env: Env = None,
        grace_period: float | None = None,
        timeout: float | None = None,
        allow_early_exit: bool = False,
        keep_daemons: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] = (),
        nprocs: int | None = 1,
        *,
        join: Literal[False],
        start_method: StartMethod = "spawn",
        **keywords: Unpack[LaunchKeywords],
    ) -> ProcessContext: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any],
        nprocs: int | None,
        join: Literal[False],
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        env: Env = None,
        grace_period: float | None = None,
        timeout: float | None = None,
        allow_early_exit: bool = False,
        keep_daemons: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> ProcessContext: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] = (),
        nprocs: int | None = 1,
        join: bool = True,
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        env: Env = None,
        grace_period: float | None = None,
        timeout: float | None = None,
        allow_early_exit: bool = False,
        keep_daemons: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> ProcessContext | None: ...


def start_processes(
    fn: Callable[..., object],
    args: Sequence[Any] = (),
    nprocs: int | None = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: StartMethod = "spawn",
    *,
    env: Env = None,
    grace_period: float | None = None,
    timeout: float | None = None,
    allow_early_exit: bool = False,
    keep_daemons: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ProcessContext | None:
    """Start ``nprocs`` processes that each call ``fn(rank, *args)``.

    The contract is that of ``torch.multiprocessing.start_processes`` (torch 2.13).

    Args:
        fn: called in each rank with the rank (0 to nprocs - 1) first.
        args: what follows the rank: a tuple or list.
        nprocs: how many ranks; None lets the start method decide, where it can.
        join: wait for the ranks; if one fails, end the others and raise with the cause.
        daemon: ranks may start no processes of their own by way of multiprocessing.
        start_method: ``spawn``, ``fork``, ``forkserver``, a name that a plugin registered, a backend
            object, or None: PROCESSION_START_METHOD, else multiprocessing's default.
        env: environment variables for all ranks, or a function from rank to such a mapping; in force
            before a rank imports or unpickles anything.  None as a value removes a variable.
        grace_period: seconds that ranks have to end by themselves once one has failed, before SIGTERM
            and again before SIGKILL.  None: SIGTERM at once, SIGKILL after 5 s.
        timeout: seconds after which the ranks are stopped and ProcessTimeoutError is raised.
        allow_early_exit: count a rank as successful that exits with code 0 before fn has returned.
        keep_daemons: leave alone what ranks have started, but for the process groups of ranks that fail
            or are stopped.  Else what is in the ranks' groups ends with the ranks, and what is in
            sessions of its own when a rank fails or is stopped, or when the caller dies.
        options: what only this start method understands.

    Returns:
        None if ``join``, else the `ProcessContext`.

    Raises:
        TypeError, ValueError: an argument is bad; nothing was started.
        UnknownBackendError, BackendUnavailableError: there is no such start method here.
        UnsafeForkError: this process cannot be forked safely (``fork``); nothing was started.
        ProcessRaisedException: a rank raised (if ``join``).
        ProcessExitedException: a rank was ended by a signal or exited with a failure (if ``join``).
        ProcessTimeoutError: ``timeout`` passed (if ``join``).
    """
    from procession.launcher import start

    context = start(
        start_method,
        fn=fn,
        args=args,
        nprocs=nprocs,
        daemon=daemon,
        env=env,
        grace_period=grace_period,
        timeout=timeout,
        allow_early_exit=allow_early_exit,
        keep_daemons=keep_daemons,
        options=options,
        wants_results=not join,
    )
    if not join:
        return context
    with context:
        context.join()
    return None


def spawn(
    fn: Callable[..., object],
    args: Sequence[Any] = (),
    nprocs: int | None = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Start processes as `start_processes` does, always by the ``spawn`` start method.

    Any other ``start_method`` is ignored with a FutureWarning, as in torch.
    """
    if start_method != "spawn":
        message = (
            f"This method only supports start_method=spawn (got: {start_method}).\n"
            "To use a different start_method use:\n\t\t procession.start_processes(...)"
        )
        import warnings

        warnings.warn(message, FutureWarning, stacklevel=2)
    return start_processes(fn, args, nprocs, join, daemon, start_method="spawn")


if TYPE_CHECKING:

    @overload
    def run(
        fn: Callable[[int], R],
        args: tuple[()] = (),
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        **keywords: Unpack[LaunchKeywords],
    ) -> list[R]: ...
    @overload
    def run(
        fn: Callable[[int, Unpack[Ts]], R],
        args: tuple[Unpack[Ts]],
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        **keywords: Unpack[LaunchKeywords],
    ) -> list[R]: ...
    @overload
    def run(
        fn: Callable[..., R],
        args: list[Any],
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        **keywords: Unpack[LaunchKeywords],
    ) -> list[R]: ...


def run(
    fn: Callable[..., R],
    args: Sequence[Any] = (),
    nprocs: int | None = 1,
    *,
    start_method: StartMethod = "spawn",
    daemon: bool = False,
    env: Env = None,
    grace_period: float | None = None,
    timeout: float | None = None,
    allow_early_exit: bool = False,
    keep_daemons: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[R]:
    """Start processes as `start_processes` does, wait, and return what the ranks returned, by rank.

    Raises:
        ResultError: a rank left no return value (it exited early, or the value cannot be pickled).
        Exception: as `start_processes` does.
    """
    from procession.launcher import start

    context = start(
        start_method,
        fn=fn,
        args=args,
        nprocs=nprocs,
        daemon=daemon,
        env=env,
        grace_period=grace_period,
        timeout=timeout,
        allow_early_exit=allow_early_exit,
        keep_daemons=keep_daemons,
        options=options,
        wants_results=True,
    )
    with context:
        return context.results()


def get_context(start_method: StartMethod = "spawn") -> BaseContext:
    """Return the `multiprocessing` context whose queues, locks, events and pipes fit a start method.

    Raises:
        ValueError: the start method's ranks share no memory with this process.
    """
    import multiprocessing

    from procession.registry import get_backend

    backend = get_backend(start_method)
    name = backend.capabilities.context
    if name is None:
        raise ValueError(
            f"start method {backend.name!r} has no queues: its ranks may run elsewhere"
        )
    return multiprocessing.get_context(name)
