"""The options of the start method ``ray``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from procession.remote import OPTIONS

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
TRANSPORTS = ("auto", "connect", "ray")

_TYPES: dict[str, tuple[type, ...]] = {
    "address": (str,),
    "namespace": (str,),
    "runtime_env": (Mapping,),
    "num_cpus": (int, float),
    "num_gpus": (int, float),
    "resources": (Mapping,),
    "strategy": (str,),
    "transport": (str,),
    "autoscaling": (bool,),
    "log_to_driver": (bool,),
}

NAMES: frozenset[str] = (OPTIONS - {"python"}) | _TYPES.keys()
"""All options, with those of `procession.remote` except ``python``: Ray's workers set the interpreter."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the start method.

    ``address`` is that of the cluster, as for `ray.init`.  It matters, like ``namespace`` and
    ``log_to_driver``, only if this process is not connected to a cluster yet.  ``num_cpus``, ``num_gpus`` and
    ``resources`` are the resources of each rank.  ``strategy`` spreads the ranks over nodes, and
    ``runtime_env`` is the environment that Ray prepares there.  ``transport`` is how ranks reach the caller:
    ``"connect"`` (ranks connect to it), ``"ray"`` (Ray carries all messages) or ``"auto"`` (Ray carries those
    of ranks that cannot connect).  With ``autoscaling``, ranks for which the cluster has no room wait for new
    nodes.
    """

    address: str | None = None
    namespace: str | None = None
    runtime_env: Mapping[str, Any] | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    strategy: str = "PACK"
    transport: str = "auto"
    autoscaling: bool = False
    log_to_driver: bool = True

    @property
    def demand(self) -> dict[str, float]:
        """The resources that one rank takes."""
        given = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: float(amount) for name, amount in given.items() if amount}


def read_options(options: Mapping[str, Any]) -> Options:
    """Return this start method's own options; `procession.remote` reads the others.

    Raises:
        TypeError, ValueError: one is bad.
    """
    chosen = {name: options[name] for name in _TYPES if options.get(name) is not None}
    for name, value in chosen.items():
        is_number = bool not in _TYPES[name] and isinstance(value, bool)
        if is_number or not isinstance(value, _TYPES[name]):
            wanted = " or ".join(each.__name__ for each in _TYPES[name])
            raise TypeError(f"options[{name!r}] must be a {wanted}, not {value!r}")
    for name, known in (("strategy", STRATEGIES), ("transport", TRANSPORTS)):
        if chosen.get(name, known[0]) not in known:
            raise ValueError(
                f"options[{name!r}] must be one of {', '.join(known)}; not {chosen[name]!r}"
            )
    read = Options(**chosen)
    _check_amounts(read)
    return read


def _check_amounts(options: Options) -> None:
    given = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    given |= {f"resources[{name!r}]": amount for name, amount in options.resources.items()}
    for name, amount in given.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not amount >= 0:
            raise ValueError(f"options: {name} must be a number, 0 or more; not {amount!r}")
        if amount > 1 and amount != int(amount):
            raise ValueError(f"options: {name} above 1 must be a whole number; not {amount!r}")
    if not options.demand:
        raise ValueError(
            "options: a rank must take something of a node, by which Ray places it: num_cpus, num_gpus "
            "or resources; a small part of a CPU is enough"
        )
