"""Has JAX, where it was imported before a rank began, take over the rank's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def take_over_environment(changed: Iterable[str]) -> None:
    """Have JAX take over this rank's flags, and the environment what JAX has added to the server's.

    Args:
        changed: the variables that are this rank's own, where no forkserver has imported JAX for it.
    """
    preloaded: Any = sys.modules.get("procession_xla.preloaded")
    if preloaded is None:
        _set_flags(changed)
        return
    _set_flags(name for name in os.environ if os.environ[name] != preloaded.before.get(name))
    _add_again(preloaded.before, preloaded.added)


def _set_flags(names: Iterable[str]) -> None:
    """Set the flags that these variables stand for: JAX reads them only where it is imported."""
    config: Any = sys.modules["jax"].config
    current = config.values  # made anew each time it is asked for
    for name in names:
        flag = name.lower()
        if name.startswith("JAX_") and name in os.environ and flag in current:
            value = _parse(config, flag, os.environ[name])
            if current[flag] != value:
                config.update(flag, value)


def _parse(config: Any, flag: str, text: str) -> Any:
    """Return the value of a flag as JAX reads it from the environment (jax/_src/config.py)."""
    kind = config.meta[flag][0]
    if kind is bool:
        return text.lower() in ("y", "yes", "t", "true", "on", "1")
    return kind(text) if kind in (int, float) else text


def _add_again(before: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Add to the environment what JAX did where it was imported, but to variables that differ by now."""
    for name, value in added.items():
        if os.environ.get(name) == before.get(name):
            os.environ[name] = value
