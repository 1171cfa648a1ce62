"""The backend: composes the command of mpiexec; the core's agents do the rest."""

from __future__ import annotations

import os
import shutil
import sys

from procession import Availability, Launch, Started, StartError
from procession.remote import CAPABILITIES, OPTIONS, Agents, start_by_command
from procession_mpi.flavours import recognise
from procession_mpi.hosts import check_reachable, count_slots, read_hosts

_OF_ANOTHER_JOB = ("PMI_", "PMIX_", "HYDI_", "OMPI_COMM_", "OMPI_UNIVERSE_", "PRTE_")
"""Prefixes of variables that describe an MPI rank's own job, which a job that it starts must not get."""


class MpiBackend:
    """Starts ranks by mpiexec: that of MPICH, of another MPI with Hydra, or of Open MPI.

    Options, besides those of `procession.remote`: ``mpiexec`` (its path; default: beside this interpreter,
    then on PATH), ``hosts`` (a list of ``"host"`` or ``"host:slots"``), ``launcher`` and ``launcher_exec``
    (how mpiexec reaches other hosts), ``arguments`` (a list of str, passed to mpiexec as they are).
    """

    name = "mpi"
    protocol_version = 1
    capabilities = CAPABILITIES
    options = OPTIONS | {"mpiexec", "hosts", "launcher", "launcher_exec", "arguments"}

    def availability(self) -> Availability:
        """Return whether there is an mpiexec; `start` finds out which kind it is."""
        if find_mpiexec():
            return Availability(True)
        reason = "there is no mpiexec beside this interpreter or on PATH"
        return Availability(False, reason, "pip install mpich, or load your cluster's MPI")

    def start(self, launch: Launch) -> Started:
        """Start one agent a rank by mpiexec."""
        hosts = read_hosts(launch.options.get("hosts"))
        slots = count_slots(hosts)
        if slots is not None and slots < launch.nprocs:
            where = f"on hosts {', '.join(hosts)} (option hosts)"
            raise StartError(self.name, nprocs=launch.nprocs, slots=slots, reason=where)
        check_reachable(hosts, launch.options)
        flavour = recognise(_choose_mpiexec(launch))
        more = _read_arguments(launch)

        def compose(agents: Agents) -> list[str]:
            return [*flavour.compose(agents.nprocs, hosts, launch.options), *more, *agents.argv]

        inherited = [name for name in os.environ if name.startswith(_OF_ANOTHER_JOB)]
        return start_by_command(
            launch,
            compose,
            rank_variables=(flavour.rank_variable,),
            environment=dict.fromkeys(inherited),
            with_parent=True,  # the parent is mpiexec's daemon on the rank's host
        )


def find_mpiexec() -> str:
    """Return the path of the default mpiexec; an empty string if there is none."""
    beside = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    return beside or shutil.which("mpiexec") or ""


def _choose_mpiexec(launch: Launch) -> str:
    named = launch.options.get("mpiexec")
    if named is None:
        return find_mpiexec()
    path = shutil.which(named) if isinstance(named, str) else None
    if path is None:
        raise ValueError(f"options['mpiexec']: there is no program {named!r}")
    return path


def _read_arguments(launch: Launch) -> list[str]:
    given = launch.options.get("arguments", ())
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise TypeError(f"options['arguments'] must be a list of str, not {given!r}")
    return list(given)
