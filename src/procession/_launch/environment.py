"""The environment variables that a launch gives its ranks, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procession.rank_place import RankPlace

Changes = Mapping[str, "str | None"]
"""Variables to set; None removes one."""


def plan_environments(
    env: Changes | Callable[[RankPlace], Changes] | None,
    nprocs: int,
    *,
    remote: bool = False,
    rendezvous: bool = False,
) -> tuple[dict[str, str | None], ...]:
    """Return each rank's changes to the environment: rendezvous variables of local ranks, then ``env``."""
    found: list[dict[str, str]] = [{}] * nprocs
    if rendezvous and not remote:
        from procession._launch.rendezvous import plan_local

        found = plan_local(nprocs)
    of_ranks = _call(env, nprocs, remote=remote) if callable(env) else [env] * nprocs
    plans = []
    for rank in range(nprocs):
        plan: dict[str, str | None] = {**found[rank]}
        if env is not None:
            plan.update(_check(of_ranks[rank], rank))
        plans.append(plan)
    return tuple(plans)


def _call(env: Callable[[RankPlace], Changes], nprocs: int, *, remote: bool) -> list[Any]:
    from procession.rank_place import RankPlace

    return [env(place) for place in RankPlace.plan(nprocs, remote=remote)]


def merge(environment: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """Return a copy of an environment with the changes applied."""
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def plain_str(value: str | os.PathLike[Any]) -> str:
    """Return a string or path as a plain str: ranks may not know a class derived from str."""
    return str.__str__(os.fsdecode(value))


def _check(env: object, rank: int) -> Changes:
    if not isinstance(env, Mapping):
        raise TypeError(
            f"env must be a mapping, or return one for rank {rank}, not {type(env).__name__}"
        )
    changes: dict[str, str | None] = {}
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, (str, os.PathLike, type(None))):
            raise TypeError(
                f"env must map str to str or a path (or None, to remove): {name!r}: {value!r}"
            )
        text = None if value is None else plain_str(value)
        if not name or "=" in name or "\0" in name or "\0" in (text or ""):
            raise ValueError(
                f"env has a name or value that no environment can hold: {name!r}: {value!r}"
            )
        _check_encodable(name, text or "")
        changes[plain_str(name)] = text
    return changes


def _check_encodable(name: str, text: str) -> None:
    try:
        os.fsencode(name + text)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"env has text that cannot be encoded: {name!r}: {text!r} ({error.reason}); most likely a lone "
            "surrogate, left over from decoding with another encoding"
        ) from None
