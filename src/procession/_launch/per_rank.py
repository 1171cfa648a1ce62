"""Binds arguments that differ by rank, and keyword arguments, to the function that ranks call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from procession._rank.rebuild import CallPerRank
from procession.rank_place import RankPlace


class PerRank:
    """Separate arguments for each rank, given as ``args``.

    Args:
        values: a sequence that holds one tuple or list of arguments per rank, or a function that takes a
            `RankPlace` and returns the arguments of that rank.  The function is called in the caller,
            before anything starts.
    """

    def __init__(
        self, values: Sequence[Sequence[Any]] | Callable[[RankPlace], Sequence[Any]]
    ) -> None:
        self.values = values


def bind(
    fn: Callable[..., Any],
    args: Any,
    kwargs: Any,
    nprocs: int,
    *,
    remote: bool,
    check_args: Callable[[Any, str], tuple[Any, ...]],
) -> tuple[Callable[..., Any], Any]:
    """Return the function and arguments to launch, with ``kwargs`` and a `PerRank` bound to the function.

    Raises:
        TypeError, ValueError: ``kwargs`` or ``args`` is bad.
    """
    if kwargs is not None:
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise TypeError(f"kwargs must be a mapping from str, or None, not {kwargs!r}")
        fn = partial(fn, **kwargs) if kwargs else fn
    if not isinstance(args, PerRank):
        return fn, args
    return CallPerRank(fn, list(_list_args(check_args, args.values, nprocs, remote=remote))), ()


def _list_args(
    check_args: Callable[[Any, str], tuple[Any, ...]], values: Any, nprocs: int, *, remote: bool
) -> Iterator[tuple[Any, ...]]:
    if callable(values):
        places = RankPlace.plan(nprocs, remote=remote)
        values = [values(place) for place in places]
    elif not isinstance(values, Sequence) or len(values) != nprocs:
        raise ValueError(
            f"args: PerRank must hold the arguments of {nprocs} ranks or a function, not "
            f"{f'those of {len(values)}' if isinstance(values, Sequence) else repr(values)}"
        )
    for rank, own in enumerate(values):
        yield check_args(own, f"args: the value of PerRank for rank {rank}")
