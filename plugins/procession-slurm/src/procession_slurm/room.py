"""Finds room for the ranks of a launch: in the caller's job, or in a partition."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from procession_slurm.controller import ask

_SPECIAL_STEPS = 0xFFFFFFF0
"""Steps from this number on run no tasks of srun, but a batch script or an interactive shell."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where ranks can be placed.

    Args:
        where: the name of the place, for an error.
        cpus: the number of processors of each node; one such list for each place that Slurm may choose.
        other_hosts: the names of the nodes if one of them is, or may be, another host; else empty.
    """

    where: str
    cpus: tuple[tuple[int, ...], ...] = ()
    other_hosts: str = ""

    def count_slots(self, cpus_per_task: int, per_node: int | None, nodes: int | None) -> int:
        """Return how many ranks fit, by processors a rank, ranks a node and number of nodes."""

        def count(cpus: Sequence[int]) -> int:
            slots = sorted((each // cpus_per_task for each in cpus), reverse=True)
            return sum(min(each, per_node or each) for each in slots[:nodes])

        return max(map(count, self.cpus))


@dataclass(frozen=True, slots=True)
class Job:
    """The job that this process runs in; ``is_task`` says that it is a task of one of the job's steps."""

    number: str
    is_task: bool

    def find_room(self, options: Mapping[str, Any]) -> Room:
        """Return the room that the job has."""
        cpus = _read_cpus(os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
        nodes = options.get("nodelist") or os.environ.get("SLURM_JOB_NODELIST", "")
        other_hosts = nodes if nodes not in _own_names() else ""
        return Room(f"job {self.number}", (cpus,) if cpus else (), other_hosts)


def read_job() -> Job | None:
    """Return the job that this process runs in; None if there is none."""
    number = os.environ.get("SLURM_JOB_ID") or os.environ.get("SLURM_JOBID")
    if not number:
        return None
    step = os.environ.get("SLURM_STEP_ID") or os.environ.get("SLURM_STEPID") or ""
    return Job(number, is_task=step.isdigit() and int(step) < _SPECIAL_STEPS)


def ask_partition(srun: str, options: Mapping[str, Any]) -> Room:
    """Return the room of the partition that srun will use, as far as Slurm reports it."""
    chosen = options.get("partition") or os.environ.get("SLURM_PARTITION") or ""
    named = ("--partition", chosen) if chosen else ()
    lines = ask("sinfo", srun, "--noheader", "--exact", "--Node", "--format=%P|%N|%n|%c", *named)
    nodes: dict[str, dict[str, tuple[str, int]]] = {}
    for partition, node, host, cpus in (line.split("|") for line in lines if line.count("|") == 3):
        if (chosen or partition.endswith("*")) and cpus.isdigit():
            nodes.setdefault(partition.rstrip("*"), {})[node] = host, int(cpus)
    where = f"partition {chosen or ', '.join(nodes)}"
    cpus_of_all = tuple(tuple(cpus for _, cpus in each.values()) for each in nodes.values())
    return Room(where, cpus_of_all, _find_other_hosts(nodes, options.get("nodelist")))


def _find_other_hosts(
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
    """Return the processors of each node from SLURM_JOB_CPUS_PER_NODE, such as ``8(x2),4``."""
    cpus: list[int] = []
    try:
        for part in text.split(",") if text else ():
            number, _, times = part.partition("(x")
            cpus += [int(number)] * int(times.rstrip(")") or 1)
    except ValueError:  # another version of Slurm may write it differently
        return ()
    return tuple(cpus)
