"""Applies a rank's environment to a JAX that was imported before the rank began."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def take_over_environment(changed: Iterable[str]) -> None:
    """Set JAX's flags from this rank's environment, and the variables that JAX set in the server.

    Args:
        changed: the variables that the launch set for this rank; used if no forkserver imported JAX.
    """
    preloaded: Any = sys.modules.get("procession_xla.preloaded")
    if preloaded is None:
        _set_flags(changed)
        return
    _set_flags(name for name in os.environ if os.environ[name] != preloaded.before.get(name))
    _add_again(preloaded.before, preloaded.added)


def _set_flags(names: Iterable[str]) -> None:
    """Set the flags of these variables: JAX itself reads them only at its import."""
    config: Any = sys.modules["jax"].config
    current = config.values  # a new dict at each access
    for name in names:
        flag = name.lower()
        if name.startswith("JAX_") and name in os.environ and flag in current:
            value = _parse(config, flag, os.environ[name])
            if current[flag] != value:
                config.update(flag, value)


def _parse(config: Any, flag: str, text: str) -> Any:
    """Return the value of a flag, parsed as JAX parses the environment (jax/_src/config.py)."""
    kind = config.meta[flag][0]
    if kind is bool:
        return text.lower() in ("y", "yes", "t", "true", "on", "1")
    return kind(text) if kind in (int, float) else text


def _add_again(before: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Set the variables that JAX set at its import, except those that have changed since."""
    for name, value in added.items():
        if os.environ.get(name) == before.get(name):
            os.environ[name] = value
