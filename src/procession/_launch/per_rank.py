"""Arguments that differ from rank to rank, and keyword arguments: what the ranks then call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from procession._rank.rebuild import CallPerRank
from procession.rank_place import RankPlace


class PerRank:
    """Arguments for each rank, in place of ``args``.

    Args:
        values: a sequence with the arguments (a tuple or list) of each rank, or a function from a
            `RankPlace` to them, called in the caller before anything starts.
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
    """Return a function and arguments that stand for what each rank is to call.

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
            f"args: PerRank must hold the arguments of {nprocs} ranks, or be given a function, not "
            f"{f'those of {len(values)}' if isinstance(values, Sequence) else repr(values)}"
        )
    for rank, own in enumerate(values):
        yield check_args(own, f"args: what PerRank has for rank {rank}")
