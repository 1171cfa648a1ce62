"""Counts how many ranks fit on a cluster, by the resources of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Resources = Mapping[str, float]


def count_slots(nodes: Iterable[Resources], demand: Resources, strategy: str) -> int:
    """Return how many ranks fit on the nodes if nothing else runs there."""
    each = [count_on_node(node, demand) for node in nodes]
    if strategy == "STRICT_PACK":
        return max(each, default=0)
    if strategy == "STRICT_SPREAD":
        return sum(slots > 0 for slots in each)
    return sum(each)


def count_on_node(node: Resources, demand: Resources) -> int:
    """Return how many ranks fit on one node."""
    # Ray counts in units of 0.0001; so does this, since ten times 0.1 must not exceed 1
    whole = [
        round(1e4 * node.get(name, 0)) // round(1e4 * amount) for name, amount in demand.items()
    ]
    return min(whole)


def tell_amounts(demand: Resources, total: Resources, available: Resources) -> str:
    """Return a text for an error: what each rank takes, and what is free."""
    names: Sequence[str] = sorted(demand)
    each = ", ".join(f"{name}: {demand[name]:g}" for name in names)
    there = ", ".join(
        f"{name}: {available.get(name, 0):g} of {total.get(name, 0):g}" for name in names
    )
    return f"each takes {each}; the cluster has free {there}"
