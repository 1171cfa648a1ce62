"""The backend: checks what Slurm has, and places the core's agents by srun."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from procession import Availability, Launch, Started, StartError
from procession.remote import CAPABILITIES, OPTIONS, Agents, read_common, start_agents
from procession_slurm.options import NAMES, check_options

if TYPE_CHECKING:
    from procession_slurm.room import Job, Room
    from procession_slurm.srun import Srun


class SlurmBackend:
    """Starts ranks by srun: as a step of the job that this process is in, or else as a new job.

    Options, besides those of `procession.remote`: ``srun`` (its path), ``overlap`` (whether the step shares
    the resources of other steps; None: only if this process is a task of a step), ``immediate`` (how long
    srun waits, in seconds; default: a little longer than ``start_timeout``), ``arguments`` (a list of str,
    passed to srun as they are), and the options of srun that `procession_slurm.options` lists.
    """

    name = "slurm"
    protocol_version = 1
    capabilities = CAPABILITIES
    options = OPTIONS | NAMES

    def availability(self) -> Availability:
        """Return whether there is an srun; `start` finds out whether its controller answers."""
        if shutil.which("srun"):
            return Availability(True)
        hint = "use a host of the cluster: a login node, or within a job"
        return Availability(False, "there is no srun on PATH", hint)

    def default_nprocs(self, options: Mapping[str, Any]) -> int:  # noqa: ARG002  the protocol's
        """Return the number of tasks of the job, if this process runs in its batch script or salloc."""
        from procession_slurm.room import read_job

        job, tasks = read_job(), os.environ.get("SLURM_NTASKS", "")
        if job is None or job.is_task or not tasks.isdigit():
            raise ValueError(
                "nprocs=None takes --ntasks of the caller's job, but the caller runs in no batch script or "
                "salloc that sets it: give a number"
            )
        return int(tasks)

    def start(self, launch: Launch) -> Started:
        """Start one agent a rank by srun."""
        from procession_slurm.controller import check_controller
        from procession_slurm.room import ask_partition, read_job
        from procession_slurm.srun import Srun, compose_command, compose_environment

        check_options(launch.options)
        common = read_common(launch.options)
        srun = _find_srun(launch.options)
        check_controller(self.name, srun)
        job = read_job()
        options = _inherit(launch.options, job)
        room = job.find_room(options) if job is not None else ask_partition(srun, options)
        _check_reachable(room, options)
        _check_slots(launch, room, options)

        placed: list[Srun] = []

        def place(agents: Agents) -> Srun:
            command = compose_command(srun, agents, options, common, job)
            placed.append(Srun(command, compose_environment(agents, options, job), job))
            return placed[0]

        started = start_agents(launch, place, ("SLURM_PROCID",))
        placed[0].follow(started.processes)
        return started


def _find_srun(options: Mapping[str, Any]) -> str:
    named = options.get("srun") or "srun"
    path = shutil.which(named)
    if path is None:
        raise ValueError(f"options['srun']: there is no program {named!r}")
    return os.path.abspath(path)


def _inherit(options: Mapping[str, Any], job: Job | None) -> dict[str, Any]:
    """Return the options with those of the job that srun ignores, or reads from another variable."""
    of_job = None if job is None or job.is_task else "SLURM_CPUS_PER_TASK"
    found = dict(options)
    for name, variables in (
        ("cpus_per_task", ("SRUN_CPUS_PER_TASK", of_job)),
        ("ntasks_per_node", (of_job and "SLURM_NTASKS_PER_NODE",)),
    ):
        for variable in filter(None, variables):
            text = os.environ.get(variable, "")
            if found.get(name) is None and text.isdigit():
                found[name] = int(text)
    return found


def _check_reachable(room: Room, options: Mapping[str, Any]) -> None:
    """Refuse nodes whose ranks cannot reach the caller.

    Raises:
        ValueError: one may be another host, and the caller listens only on its loopback interface.
    """
    others = room.other_hosts or ("several nodes" if (options.get("nodes") or 1) > 1 else "")
    if others and options.get("advertise") is None:
        raise ValueError(
            f"options: ranks on other hosts ({room.where}: {others}) cannot reach this process, which "
            "listens at 127.0.0.1; give 'advertise', an address of this machine that they can reach (or "
            "127.0.0.1, if they run on this machine)"
        )


def _check_slots(launch: Launch, room: Room, options: Mapping[str, Any]) -> None:
    """Refuse more ranks than can ever fit: srun would wait forever.

    Raises:
        StartError: they do not fit; the error has both numbers.
    """
    # the user's own arguments may change anything
    if not room.cpus or options.get("arguments") or "SLURM_OVERCOMMIT" in os.environ:
        return
    cpus, per_node = options.get("cpus_per_task") or 1, options.get("ntasks_per_node")
    slots = room.count_slots(cpus, per_node, options.get("nodes"))
    if slots < launch.nprocs:
        reason = f"{room.where} has {max(map(sum, room.cpus))} processors on its nodes"
        if cpus > 1:
            reason += f", and each rank takes {cpus} (option cpus_per_task)"
        if per_node is not None:
            reason += f", and each node takes at most {per_node} ranks (option ntasks_per_node)"
        raise StartError("slurm", nprocs=launch.nprocs, slots=slots, reason=reason)
