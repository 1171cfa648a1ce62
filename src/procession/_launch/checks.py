"""Checks the arguments of a call before anything starts, and freezes them into a `Launch`."""

from __future__ import annotations

import operator
import os
import sys
from _thread import get_ident
from collections.abc import Mapping
from types import FrameType
from typing import Any

from procession._launch.environment import plan_environments
from procession._launch.numbering import identify_ranks
from procession._python.functions import unwrap
from procession._python.imported import get_if_imported
from procession._python.interpreter import find_awaited
from procession.protocol import Backend, Launch, Signals

KEYWORDS: dict[str, Any] = {
    "name": None,
    "env": None,
    "timeout": None,
    "grace_period": None,
    "options": None,
    "allow_early_exit": False,
    "keep_daemons": False,
    "collect_results": False,
    "rendezvous": None,
    "fail_fast": True,
    "supervise": False,
    "signals": None,
}
"""The keywords of `procession.LaunchOptions`, with their defaults."""


class ImportingError(RuntimeError):
    """Raised when a rank starts ranks while it still imports what its own launch needs."""


def check_launch(
    backend: Backend,
    *,
    fn: Any,
    args: Any,
    nprocs: Any,
    daemon: Any,
    join: Any,
    kwargs: Any,
    keywords: Mapping[str, Any],
    wants_results: bool = False,
) -> Launch:
    """Return the launch that the arguments of a call describe.

    Raises:
        TypeError, ValueError: an argument is bad; the message names it and the remedy.
        AssertionError: this process is daemonic (multiprocessing's own rule).
        ImportingError: this process is a rank that still imports what its function and arguments need.
    """
    check_caller()
    given = check_keywords(keywords)
    chosen = check_options(backend, given["options"])
    if not callable(fn):
        raise TypeError(f"fn must be callable, as fn(rank, *args), not {type(fn).__name__}")
    count = check_nprocs(backend, nprocs, chosen)
    name, remote = check_name(given["name"], fn), backend.capabilities.remote
    if kwargs is not None or type(args).__name__ == "PerRank":
        from procession._launch.per_rank import bind

        fn, args = bind(fn, args, kwargs, count, remote=remote, check_args=check_args)
    rendezvous = check_rendezvous(given["rendezvous"], backend)
    environments = plan_environments(given["env"], count, remote=remote, rendezvous=rendezvous)
    return Launch(
        fn=fn,
        args=check_args(args),
        nprocs=count,
        start_method=backend.name,
        daemon=bool(daemon),
        environments=environments,
        options=chosen,
        wants_results=wants_results or bool(given["collect_results"]),
        name=name,
        rendezvous=rendezvous,
        identity=identify_ranks(count),
        **check_policies(given, join=join),
    )


def check_policies(given: Mapping[str, Any], *, join: bool) -> dict[str, Any]:
    """Return the fields of a `Launch` that depend on one or two keywords each."""
    return {
        "grace_period": check_seconds("grace_period", given["grace_period"]),
        "timeout": check_seconds("timeout", given["timeout"]),
        "allow_early_exit": bool(given["allow_early_exit"]),
        "keep_daemons": bool(given["keep_daemons"]),
        "fail_fast": bool(given["fail_fast"]),
        "signals": check_signals(given["signals"]),
        "supervise": bool(given["supervise"]) and not join,
        "prints_errors": not join and not given["supervise"],
    }


_OTHERS = ("fn", "args", "nprocs", "join", "daemon", "start_method", "kwargs", "return_exceptions")
"""Arguments that the signatures of calls name; `check_keywords` may suggest them."""


def check_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every keyword, given or default.

    Raises:
        TypeError: a keyword does not exist; the message suggests the nearest one.
    """
    for name in keywords:
        if name not in KEYWORDS:
            from difflib import get_close_matches

            near = get_close_matches(name, [*KEYWORDS, *_OTHERS], 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(KEYWORDS)}"
            raise TypeError(f"unexpected keyword argument {name!r}{meant}")
    return {**KEYWORDS, **keywords}


def check_signals(value: Any) -> Signals:
    """Return the `Signals` of a call, with plain ints for the signals to forward."""
    if value is None:
        return Signals()
    if not isinstance(value, Signals):
        raise TypeError(
            f"signals must be a procession.Signals or None, not {type(value).__name__}; for example "
            "signals=Signals(forward=(signal.SIGUSR1,))"
        )
    forward = value.forward
    if isinstance(forward, int) or not hasattr(forward, "__iter__"):
        raise TypeError(f"signals.forward must be a tuple of signals, not {forward!r}")
    import signal

    from procession._linux.signals import name_signal

    wrong = [one for one in forward if not isinstance(one, int)]
    if wrong:
        raise TypeError(f"signals.forward must hold signals, as signal.SIGUSR1, not {wrong[0]!r}")
    numbers = [operator.index(one) for one in forward]
    for number in numbers:
        if number not in (signal.SIGUSR1, signal.SIGUSR2):
            raise ValueError(
                f"signals.forward may hold SIGUSR1 and SIGUSR2, not {name_signal(number)}; SIGTERM, "
                "SIGHUP, SIGINT, SIGTSTP and SIGCONT reach the ranks anyway"
            )
    return Signals(tuple(numbers), bool(value.keep_handlers))


def check_name(value: Any, fn: Any) -> str:
    """Return the name by which messages call a launch; the default is the function's name."""
    if value is None:
        fn, _ = unwrap(fn)
        return str(getattr(fn, "__name__", type(fn).__name__))
    if not isinstance(value, str):
        raise TypeError(f"name must be a str or None, not {type(value).__name__}")
    return value


def check_rendezvous(value: Any, backend: Backend) -> bool:
    """Return whether ranks get the variables of a rendezvous; None means the start method's default."""
    if value is None:
        return bool(getattr(backend.capabilities, "rendezvous", False))
    if not isinstance(value, bool):
        raise TypeError(f"rendezvous must be a bool or None, not {value!r}")
    return value


def check_args(args: Any, what: str = "args") -> tuple[Any, ...]:
    """Return the arguments as a tuple; a list works too, as in torch."""
    if isinstance(args, (str, bytes, Mapping)) or not hasattr(args, "__iter__"):
        raise TypeError(
            f"{what} must be a tuple or list of the arguments after the rank in fn(rank, *args), not "
            f"{type(args).__name__}; for a single argument write args=(value,)"
        )
    return tuple(args)


def check_nprocs(backend: Backend, nprocs: Any, options: Mapping[str, Any]) -> int:
    """Return the number of ranks; None means the backend's default or, for local ranks, the CPU count."""
    if nprocs is None:
        default = getattr(backend, "default_nprocs", None)
        if default is not None:
            nprocs = default(options)
        elif not backend.capabilities.remote:
            from procession._launch.platform import count_processors

            nprocs = count_processors()
        else:
            raise TypeError(
                f"nprocs must be an int: start method {backend.name!r} has no default number of ranks"
            )
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
    if value != value:  # noqa: PLR0124  # NaN
        raise ValueError(f"{name} must be a number of seconds, not {value}")
    if value < 0:
        raise ValueError(f"{name} must not be negative: {value}")
    return float(value)


def check_options(backend: Backend, options: Any) -> dict[str, Any]:
    """Return the options as a dict.

    Raises:
        ValueError: the backend does not know one of them.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping or None, not {type(options).__name__}")
    known = sorted(getattr(backend, "options", ()))
    unknown = [name for name in options if name not in known]
    if unknown:
        knows = f"it knows {', '.join(known)}" if known else "it takes no options"
        raise ValueError(
            f"options: start method {backend.name!r} does not know {unknown[0]!r}; {knows}"
        )
    return dict(options)


def check_caller() -> None:
    """Refuse a launch from a process that must not start ranks."""
    current_process = get_if_imported("multiprocessing.process", "current_process")
    own = current_process() if current_process is not None else None
    inheriting = getattr(own, "_inheriting", False)  # a process of multiprocessing's own
    if inheriting or _is_loading() or find_awaited():
        raise ImportingError(
            f"{_find_importer()} starts ranks while a rank imports it: each of them would import it and "
            "start more, without end. Move the call into a function or, in a script, guard it with\n\n"
            "    if __name__ == '__main__':\n"
        )
    if own is not None and own._config.get("daemon"):
        raise AssertionError(_describe_daemon(own.name))


def _describe_daemon(name: str) -> str:
    """Say in multiprocessing's words that this process is daemonic, and name the remedy."""
    if get_if_imported("procession._rank.life", "current") is not None:
        remedy = "start its own launch without daemon=True"
    elif "PoolWorker" in name:
        remedy = (
            "multiprocessing.Pool makes all its workers daemonic; those of "
            "concurrent.futures.ProcessPoolExecutor are not daemonic"
        )
    else:
        remedy = "start it without daemon=True"
    rule = "daemonic processes are not allowed to have children"
    return f"{rule}: this one, {name!r} (pid {os.getpid()}), is daemonic; {remedy}"


def _is_loading() -> bool:
    """Tell whether this process is a rank that loads fn and args, or this thread started in such a load."""
    early = get_if_imported("procession._rank.life", "early_threads")
    return bool(
        get_if_imported("procession._rank.life", "loading") or (early and get_ident() in early)
    )


def _find_importer() -> str:
    """Return the module, file and line whose import led to this call."""
    frame: FrameType | None = sys._getframe()
    outermost = ""
    while frame is not None:
        code, name = frame.f_code, str(frame.f_globals.get("__name__"))
        shown = "the main module" if name in ("__main__", "__mp_main__") else f"module {name!r}"
        place = f"{shown} ({code.co_filename}, line {frame.f_lineno})"
        if not name.startswith(("procession.", "threading", "importlib", "concurrent.")):
            if code.co_name == "<module>" and code.co_filename != "<string>":  # a rank's own -c
                return place
            outermost = place if code.co_name != "<module>" else outermost
        frame = frame.f_back
    return outermost or "a module"
