"""What there is for the ranks of a launch: in the job that the caller is in, or in a partition."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from procession_slurm.controller import ask

_SPECIAL_STEPS = 0xFFFFFFF0
"""From this number on, a step is none that srun starts tasks in: a batch script, an interactive shell."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where ranks can be placed.

    Args:
        where: what it is, for an error.
        cpus: the processors of each node; several such lists if it is one of several places.
        elsewhere: the nodes, if some of them are, or may be, other hosts than this one.
    """

    where: str
    cpus: tuple[tuple[int, ...], ...] = ()
    elsewhere: str = ""

    def count_slots(self, cpus_per_task: int, per_node: int | None, nodes: int | None) -> int:
        """Return how many ranks fit at most, by the processors that each needs, and by numbers given."""

        def count(cpus: Sequence[int]) -> int:
            slots = sorted((each // cpus_per_task for each in cpus), reverse=True)
            return sum(min(each, per_node or each) for each in slots[:nodes])

        return max(map(count, self.cpus))


@dataclass(frozen=True, slots=True)
class Job:
    """The job whose allocation this process is in; ``is_task``: as a task of one of its steps."""

    number: str
    is_task: bool

    def find_room(self, options: Mapping[str, Any]) -> Room:
        """Return what the job has."""
        cpus = _read_cpus(os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
        nodes = options.get("nodelist") or os.environ.get("SLURM_JOB_NODELIST", "")
        elsewhere = nodes if nodes not in _own_names() else ""
        return Room(f"job {self.number}", (cpus,) if cpus else (), elsewhere)


def read_job() -> Job | None:
    """Return the job that this process is in, None if it is in none."""
    number = os.environ.get("SLURM_JOB_ID") or os.environ.get("SLURM_JOBID")
    if not number:
        return None
    step = os.environ.get("SLURM_STEP_ID") or os.environ.get("SLURM_STEPID") or ""
    return Job(number, is_task=step.isdigit() and int(step) < _SPECIAL_STEPS)


def ask_partition(srun: str, options: Mapping[str, Any]) -> Room:
    """Return what the partition has in which srun will ask for an allocation, as far as Slurm tells."""
    chosen = options.get("partition") or os.environ.get("SLURM_PARTITION") or ""
    named = ("--partition", chosen) if chosen else ()
    lines = ask("sinfo", srun, "--noheader", "--exact", "--Node", "--format=%P|%N|%n|%c", *named)
    nodes: dict[str, dict[str, tuple[str, int]]] = {}
    for partition, node, host, cpus in (line.split("|") for line in lines if line.count("|") == 3):
        if (chosen or partition.endswith("*")) and cpus.isdigit():
            nodes.setdefault(partition.rstrip("*"), {})[node] = host, int(cpus)
    where = f"partition {chosen or ', '.join(nodes)}"
    cpus_of_all = tuple(tuple(cpus for _, cpus in each.values()) for each in nodes.values())
    return Room(where, cpus_of_all, _find_elsewhere(nodes, options.get("nodelist")))


def _find_elsewhere(
    nodes: Mapping[str, Mapping[str, tuple[str, int]]], nodelist: str | None
) -> str:
    names = {name: host for each in nodes.values() for name, (host, _) in each.items()}
    if nodelist is not None:
        names = {nodelist: names.get(nodelist, nodelist)}
    here = len(names) <= 1 and all({name, host} & _own_names() for name, host in names.items())
    return "" if here else _abbreviate(list(names))


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _own_names() -> set[str]:
    """Return the names that this host may have as a node."""
    name = socket.gethostname()
    return {name, name.partition(".")[0], os.environ.get("SLURMD_NODENAME", name)}


def _read_cpus(text: str) -> tuple[int, ...]:
    """Return the processors of each node, from what SLURM_JOB_CPUS_PER_NODE holds: ``8(x2),4``."""
    cpus: list[int] = []
    try:
        for part in text.split(",") if text else ():
            number, _, times = part.partition("(x")
            cpus += [int(number)] * int(times.rstrip(")") or 1)
    except ValueError:  # a Slurm that writes it in another way
        return ()
    return tuple(cpus)
