"""The options that all backends with agents share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from procession._launch.environment import plain_str

OPTIONS: frozenset[str] = frozenset(
    {"advertise", "port", "python", "start_timeout", "contact_timeout"}
)
"""The names that a backend adds to its own options; `read_common` reads them."""


class Common(NamedTuple):
    """How agents start and reach their caller.

    ``advertise`` is the address or name at which this machine listens and to which the agents connect;
    ``port`` is the port, 0 for a free one.  ``python`` is the path of the interpreter on the ranks' hosts,
    None for the path of this one.  All agents must connect within ``start_timeout`` seconds.  After
    ``contact_timeout`` seconds without an answer a rank is lost, and ends itself.
    """

    advertise: str = "127.0.0.1"
    port: int = 0
    python: str | None = None
    start_timeout: float = 60.0
    contact_timeout: float = 10.0


def read_common(options: Mapping[str, Any]) -> Common:
    """Return the common options of a launch; ignore all others.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option has a value out of range.
    """
    chosen = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    for name in {"advertise", "python"} & chosen.keys():
        if not isinstance(chosen[name], str) or not chosen[name]:
            raise TypeError(f"options[{name!r}] must be a str, not {chosen[name]!r}")
        chosen[name] = plain_str(chosen[name])
    port = chosen.get("port", 0)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536:
        raise ValueError(f"options['port'] must be an int from 0 to 65535, not {port!r}")
    for name, least in (("start_timeout", 0), ("contact_timeout", 3)):
        value = chosen.get(name, least)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"options[{name!r}] must be a number of seconds, not {value!r}")
        if not value >= least:
            raise ValueError(f"options[{name!r}] must be at least {least} seconds, not {value!r}")
    return Common(**chosen)
