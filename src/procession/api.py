"""The calls: `start_processes`, `spawn`, `run`, `get_context`.

Each imports what it needs when it is called: a rank imports the caller's main module, which imports these
names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, TypeAlias, TypeVar, overload

    from typing_extensions import TypeVarTuple, Unpack

    from procession._launch.per_rank import PerRank
    from procession.context import ProcessContext
    from procession.launch_options import LaunchOptions
    from procession.protocol import Backend

    R = TypeVar("R")
    Ts = TypeVarTuple("Ts")
    StartMethod: TypeAlias = "str | Backend | None"


if TYPE_CHECKING:  # a second block, because mypy accepts nothing else beside overloads

    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] | PerRank = (),
        nprocs: int | None = 1,
        join: Literal[True] = True,
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        kwargs: Mapping[str, Any] | None = None,
        **launch: Unpack[LaunchOptions],
    ) -> None: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] | PerRank = (),
        nprocs: int | None = 1,
        *,
        join: Literal[False],
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        kwargs: Mapping[str, Any] | None = None,
        **launch: Unpack[LaunchOptions],
    ) -> ProcessContext: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] | PerRank,
        nprocs: int | None,
        join: Literal[False],
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        kwargs: Mapping[str, Any] | None = None,
        **launch: Unpack[LaunchOptions],
    ) -> ProcessContext: ...
    @overload
    def start_processes(
        fn: Callable[..., object],
        args: Sequence[Any] | PerRank = (),
        nprocs: int | None = 1,
        join: bool = True,
        daemon: bool = False,
        start_method: StartMethod = "spawn",
        *,
        kwargs: Mapping[str, Any] | None = None,
        **launch: Unpack[LaunchOptions],
    ) -> ProcessContext | None: ...


def start_processes(
    fn: Callable[..., object],
    args: Sequence[Any] | PerRank = (),
    nprocs: int | None = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: StartMethod = "spawn",
    *,
    kwargs: Mapping[str, Any] | None = None,
    **launch: Unpack[LaunchOptions],
) -> ProcessContext | None:
    """Start ``nprocs`` processes that each call ``fn(rank, *args)``.

    The contract is that of ``torch.multiprocessing.start_processes`` (torch 2.13).

    Args:
        fn: called in each rank with the rank (0 to nprocs - 1) first.
        args: the arguments after the rank: a tuple or list, or a `PerRank`.
        nprocs: the number of ranks; None: the start method's default or, for local ranks, the number of
            CPUs that this process may use.
        join: wait for the ranks; if one fails, end the others and raise an error that names the cause.
        daemon: ranks may not start processes with multiprocessing, nor launches.
        start_method: ``spawn``, ``fork``, ``forkserver``, a name that a plugin provides, a backend object,
            or None: PROCESSION_START_METHOD, or else multiprocessing's default.
        kwargs: keyword arguments for fn.
        launch: see `LaunchOptions`.

    Returns:
        None if ``join``, else the `ProcessContext`.

    Raises:
        TypeError, ValueError: an argument is bad; nothing was started.
        UnknownBackendError, BackendUnavailableError: there is no such start method here.
        UnsafeForkError: this process cannot be forked safely (``fork``); nothing was started.
        ProcessRaisedException: a rank raised (if ``join``).
        ProcessExitedException: a signal ended a rank, or it exited with a failure (if ``join``).
        ProcessTimeoutError: ``timeout`` passed (if ``join``).
    """
    from procession._launch import launcher
    from procession._registry.lookup import get_backend

    backend = get_backend(start_method)
    given = {
        "fn": fn,
        "args": args,
        "nprocs": nprocs,
        "daemon": daemon,
        "join": join,
        "kwargs": kwargs,
        "keywords": launch,
    }
    if not join:
        return launcher.start(backend, **given)
    launcher.complete(backend, lambda context: context.wait(), **given)
    return None


def spawn(
    fn: Callable[..., object],
    args: Sequence[Any] = (),
    nprocs: int | None = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Start processes as `start_processes` does, always with the start method ``spawn``.

    Any other ``start_method`` leads to a FutureWarning and is ignored, as in torch.
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
        daemon: bool = False,
        kwargs: None = None,
        **launch: Unpack[LaunchOptions],
    ) -> list[R]: ...
    @overload
    def run(
        fn: Callable[[int, Unpack[Ts]], R],
        args: tuple[Unpack[Ts]],
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        daemon: bool = False,
        kwargs: None = None,
        **launch: Unpack[LaunchOptions],
    ) -> list[R]: ...
    @overload
    def run(
        fn: Callable[..., R],
        args: Sequence[Any] | PerRank = (),
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        daemon: bool = False,
        kwargs: Mapping[str, Any],
        **launch: Unpack[LaunchOptions],
    ) -> list[R]: ...
    @overload
    def run(
        fn: Callable[..., R],
        args: Sequence[Any] | PerRank = (),
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        daemon: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        return_exceptions: Literal[True],
        **launch: Unpack[LaunchOptions],
    ) -> list[R | BaseException]: ...
    @overload
    def run(
        fn: Callable[..., R],
        args: list[Any] | PerRank,
        nprocs: int | None = 1,
        *,
        start_method: StartMethod = "spawn",
        daemon: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        **launch: Unpack[LaunchOptions],
    ) -> list[R]: ...


def run(
    fn: Callable[..., R],
    args: Sequence[Any] | PerRank = (),
    nprocs: int | None = 1,
    *,
    start_method: StartMethod = "spawn",
    daemon: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    return_exceptions: bool = False,
    **launch: Unpack[LaunchOptions],
) -> list[Any]:
    """Start processes as `start_processes` does, wait for them, and return what they returned, by rank.

    With ``return_exceptions`` a failed rank raises nothing here; its place in the list holds its exception.
    For the other arguments see `start_processes`.

    Raises:
        ResultError: a rank left no return value (it exited early, or the value cannot be pickled).
        Exception: as in `start_processes`.
    """
    from procession._launch import launcher
    from procession._registry.lookup import get_backend

    results: list[Any] = launcher.complete(
        get_backend(start_method),
        lambda context: context.results(return_exceptions=return_exceptions),
        fn=fn,
        args=args,
        nprocs=nprocs,
        daemon=daemon,
        join=True,
        wants_results=True,
        kwargs=kwargs,
        keywords=launch,
    )
    return results


def get_context(start_method: StartMethod = "spawn") -> BaseContext:
    """Return the `multiprocessing` context whose queues, locks, events and pipes fit a start method.

    Raises:
        ValueError: the start method's ranks share no memory with this process.
    """
    import multiprocessing

    from procession._registry.lookup import get_backend

    backend = get_backend(start_method)
    name = backend.capabilities.context
    if name is None:
        raise ValueError(
            f"start method {backend.name!r} has no queues or locks: its ranks may run on other hosts"
        )
    return multiprocessing.get_context(name)
