"""What differs between the mpiexec of one MPI and that of another."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from procession.remote import VARIABLE

_PATIENCE = 20.0  # seconds for mpiexec to tell its version


@dataclass(frozen=True, slots=True)
class Flavour:
    """One kind of mpiexec: its path, where its processes find their rank, and what it needs besides.

    ``flags`` are those of its own that have it end nobody because another has ended.
    """

    mpiexec: str
    rank_variable: str
    flags: tuple[str, ...] = ()

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command up to what is to be started ``nprocs`` times."""
        raise NotImplementedError


class Hydra(Flavour):
    """MPICH's mpiexec, and that of MPIs that have it from there: MVAPICH's, and Intel's."""

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command; every variable is passed on."""
        command = [self.mpiexec, "-genvall", *self.flags, "-n", str(nprocs)]
        if hosts:
            command += ["-hosts", ",".join(hosts)]
        for option, flag in (("launcher", "-launcher"), ("launcher_exec", "-launcher-exec")):
            if options.get(option) is not None:
                command += [flag, str(options[option])]
        return command


class OpenMpi(Flavour):
    """Open MPI's mpiexec.

    Without ``hosts`` it would refuse more ranks than there are processors; whether there are enough is up to
    whoever starts them, as everywhere else.
    """

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command; of the variables, it passes on to other hosts only those that it is told."""
        command = [self.mpiexec, "-n", str(nprocs), "-x", VARIABLE]
        if hosts:
            command += ["--host", ",".join(hosts)]
        else:
            command += ["--oversubscribe"]
        if os.geteuid() == 0:
            command += ["--allow-run-as-root"]
        launcher = options.get("launcher_exec") or options.get("launcher")
        if launcher is not None:
            command += ["--mca", "plm_rsh_agent", str(launcher)]
        return command


@functools.cache
def recognise(mpiexec: str) -> Flavour:
    """Return which kind of mpiexec a program is, by what it says of its version.

    Raises:
        ValueError: it is none that is known.
    """
    try:
        done = subprocess.run(
            [mpiexec, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{mpiexec} does not tell its version: {error}") from None
    said = done.stdout + done.stderr
    if "HYDRA" in said:
        return Hydra(mpiexec, "PMI_RANK", ("-disable-auto-cleanup",))
    if "Intel" in said:  # never run
        return Hydra(mpiexec, "PMI_RANK")
    if "Open MPI" in said or "OpenRTE" in said or "PRRTE" in said:
        return OpenMpi(mpiexec, "OMPI_COMM_WORLD_RANK")
    raise ValueError(f"{mpiexec} is neither Hydra's (MPICH) nor Open MPI's; it says {said[:200]!r}")
