"""The options of the start method, and their checks before srun runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBERS = ("nodes", "ntasks_per_node", "cpus_per_task")
_TEXTS = (
    "partition",
    "account",
    "qos",
    "reservation",
    "constraint",
    "nodelist",
    "gres",
    "job_name",
)
_EITHER = ("gpus_per_task", "mem", "mem_per_cpu", "time")

NAMES: frozenset[str] = frozenset(
    {*_NUMBERS, *_TEXTS, *_EITHER, "srun", "overlap", "immediate", "arguments"}
)
"""The options besides `procession.remote.OPTIONS`; most have the names of srun's options."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that cannot be passed to srun.

    Raises:
        TypeError, ValueError: one is bad; the message names it.
    """
    for name in (*_NUMBERS, "immediate"):
        _check_number(name, options.get(name))
    for name in (*_TEXTS, "srun"):
        _check_text(name, options.get(name))
    for name in _EITHER:
        value = options.get(name)
        if isinstance(value, str):
            _check_text(name, value)
        else:
            _check_number(name, value, "a str, or an int")
    if not isinstance(options.get("overlap"), (bool, type(None))):
        raise TypeError(
            f"options['overlap'] must be True, False or None, not {options['overlap']!r}"
        )
    arguments = options.get("arguments") or ()
    if not isinstance(arguments, (list, tuple)) or not all(
        isinstance(one, str) for one in arguments
    ):
        raise TypeError(f"options['arguments'] must be a list of str, not {arguments!r}")


def compose_flags(options: Mapping[str, Any]) -> list[str]:
    """Return the arguments of srun for the options that are srun's own."""
    return [
        f"--{name.replace('_', '-')}={options[name]}"
        for name in (*_NUMBERS, *_TEXTS, *_EITHER)
        if options.get(name) is not None
    ]


def _check_number(name: str, value: Any, what: str = "an int") -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"options[{name!r}] must be {what}, not {value!r}")
    if value < 1:
        raise ValueError(f"options[{name!r}] must be at least 1, not {value}")


def _check_text(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"options[{name!r}] must be a str, not {value!r}")
    if not value or "\0" in value:
        raise ValueError(f"options[{name!r}] must be a name, not {value!r}")
