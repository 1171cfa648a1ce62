"""How many ranks a cluster has room for, by what its nodes have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Resources = Mapping[str, float]


def count_slots(nodes: Iterable[Resources], demand: Resources, strategy: str) -> int:
    """Return how many ranks fit on nodes that nobody else uses."""
    each = [count_on_node(node, demand) for node in nodes]
    if strategy == "STRICT_PACK":
        return max(each, default=0)
    if strategy == "STRICT_SPREAD":
        return sum(slots > 0 for slots in each)
    return sum(each)


def count_on_node(node: Resources, demand: Resources) -> int:
    """Return how many ranks fit on one node."""
    # Ray counts in ten-thousandths; so do we, lest 0.1 ten times be more than 1
    whole = [
        round(1e4 * node.get(name, 0)) // round(1e4 * amount) for name, amount in demand.items()
    ]
    return min(whole)


def tell_amounts(demand: Resources, total: Resources, available: Resources) -> str:
    """Return what is asked for and what there is, for an error."""
    names: Sequence[str] = sorted(demand)
    each = ", ".join(f"{name}: {demand[name]:g}" for name in names)
    there = ", ".join(
        f"{name}: {available.get(name, 0):g} of {total.get(name, 0):g}" for name in names
    )
    return f"each takes {each}; in the cluster there are free {there}"
