"""The environment variables that a launch gives its ranks, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

Changes = Mapping[str, "str | None"]
"""Variables to set; None removes one."""


def plan_environments(
    env: Changes | Callable[[int], Changes] | None, nprocs: int, *, rendezvous: bool = False
) -> tuple[dict[str, str | None], ...]:
    """Return each rank's changes to the environment: the rendezvous of local ranks, then ``env``."""
    places: list[dict[str, str]] = [{}] * nprocs
    if rendezvous:
        from procession._launch.rendezvous import plan_local

        places = plan_local(nprocs)
    plans = []
    for rank in range(nprocs):
        plan: dict[str, str | None] = {**places[rank]}
        if env is not None:
            plan.update(_check(env(rank) if callable(env) else env, rank))
        plans.append(plan)
    return tuple(plans)


def merge(environment: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """Return an environment with changes made to it."""
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def plain_str(value: str | os.PathLike[Any]) -> str:
    """Return a string or path as a str itself, not of a class derived from it, which ranks may not know."""
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
            raise ValueError(f"env holds what no environment can: {name!r}: {value!r}")
        _check_encodable(name, text or "")
        changes[plain_str(name)] = text
    return changes


def _check_encodable(name: str, text: str) -> None:
    try:
        os.fsencode(name + text)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"env holds what cannot be encoded: {name!r}: {text!r} ({error.reason}); a lone surrogate, most "
            "likely, as decoding with another encoding leaves them"
        ) from None
