"""Checks a call before anything starts, and freezes it into a `Launch`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from procession.environment import plan_environments
from procession.loaded import get_loaded
from procession.protocol import Backend, Launch


def check_launch(
    backend: Backend,
    *,
    fn: Any,
    args: Any,
    nprocs: Any,
    daemon: Any,
    env: Any,
    grace_period: Any,
    timeout: Any,
    allow_early_exit: Any,
    keep_daemons: Any,
    options: Any,
    wants_results: bool,
) -> Launch:
    """Return the launch that the arguments of a call describe.

    Raises:
        TypeError, ValueError: an argument is bad; the message names it and the way out.
        AssertionError: this process is a daemonic rank (multiprocessing's own rule).
        RuntimeError: this process is a rank that still imports its launcher's main module.
    """
    check_caller()
    chosen = check_options(backend, options)
    if not callable(fn):
        raise TypeError(f"fn must be callable, as fn(rank, *args), not {type(fn).__name__}")
    count = check_nprocs(backend, nprocs, chosen)
    return Launch(
        fn=fn,
        args=check_args(args),
        nprocs=count,
        start_method=backend.name,
        daemon=bool(daemon),
        environments=plan_environments(env, count),
        options=chosen,
        grace_period=check_seconds("grace_period", grace_period),
        timeout=check_seconds("timeout", timeout),
        allow_early_exit=bool(allow_early_exit),
        keep_daemons=bool(keep_daemons),
        wants_results=wants_results,
    )


def check_args(args: Any) -> tuple[Any, ...]:
    """Return the arguments as a tuple; a list is taken too, as torch takes it."""
    if isinstance(args, (str, bytes, Mapping)) or not hasattr(args, "__iter__"):
        raise TypeError(
            f"args must be a tuple or list of what follows the rank in fn(rank, *args), not "
            f"{type(args).__name__}; for a single argument write args=(value,)"
        )
    return tuple(args)


def check_nprocs(backend: Backend, nprocs: Any, options: Mapping[str, Any]) -> int:
    """Return the number of ranks; None asks the backend."""
    if nprocs is None:
        default = getattr(backend, "default_nprocs", None)
        if default is None:
            raise TypeError(
                f"nprocs must be an int: start method {backend.name!r} has no number of its own"
            )
        nprocs = default(options)
    if isinstance(nprocs, bool):
        raise TypeError(f"nprocs must be an int, not the bool {nprocs}")
    try:
        count = int(operator.index(nprocs))
    except TypeError:
        raise TypeError(f"nprocs must be an int, not {type(nprocs).__name__} {nprocs!r}") from None
    if count < 1:
        raise ValueError(f"nprocs must be at least 1, not {count}")
    return count


def check_seconds(name: str, value: Any) -> float | None:
    """Return a duration in seconds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative: {value}")
    return float(value)


def check_options(backend: Backend, options: Any) -> dict[str, Any]:
    """Return the options, all of which the backend understands."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping or None, not {type(options).__name__}")
    known = sorted(getattr(backend, "options", ()))
    unknown = [name for name in options if name not in known]
    if unknown:
        knows = f"it knows {', '.join(known)}" if known else "it has none"
        raise ValueError(
            f"options: start method {backend.name!r} does not know {unknown[0]!r}; {knows}"
        )
    return dict(options)


def check_caller() -> None:
    """Refuse a launch from a process that must not start any."""
    if get_loaded("procession.fresh", "importing_main"):
        raise RuntimeError(
            "ranks are being started while a rank imports the main module of its launcher: guard "
            "the part of your script that starts them with\n\n    if __name__ == '__main__':\n"
        )
    current_process = get_loaded("multiprocessing.process", "current_process")
    if current_process is not None and current_process()._config.get("daemon"):
        raise AssertionError("daemonic processes are not allowed to have children")
