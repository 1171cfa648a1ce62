"""The differences between the mpiexec programs of several MPIs."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from procession.remote import VARIABLE

_PATIENCE = 20.0  # seconds for mpiexec to print its version


@dataclass(frozen=True, slots=True)
class Flavour:
    """One kind of mpiexec: its path, the variable with the rank of a process, and further flags.

    ``flags`` keep mpiexec from ending the other processes when one has ended.
    """

    mpiexec: str
    rank_variable: str
    flags: tuple[str, ...] = ()

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command, without the program that it starts ``nprocs`` times."""
        raise NotImplementedError


class Hydra(Flavour):
    """The mpiexec of MPICH and of MPIs derived from it: MVAPICH and Intel MPI."""

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command, which passes on all environment variables."""
        command = [self.mpiexec, "-genvall", *self.flags, "-n", str(nprocs)]
        if hosts:
            command += ["-hosts", ",".join(hosts)]
        for option, flag in (("launcher", "-launcher"), ("launcher_exec", "-launcher-exec")):
            if options.get(option) is not None:
                command += [flag, str(options[option])]
        return command


class OpenMpi(Flavour):
    """The mpiexec of Open MPI.

    Without ``hosts`` it would refuse more ranks than processors.  ``--oversubscribe`` allows them, since all
    other start methods do.
    """

    def compose(self, nprocs: int, hosts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the command; mpiexec passes only the variables named by ``-x`` on to other hosts."""
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
    """Return which kind of mpiexec a program is, by its output for ``--version``.

    Raises:
        ValueError: the kind is unknown.
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
        raise ValueError(f"{mpiexec} does not print its version: {error}") from None
    output = done.stdout + done.stderr
    if "HYDRA" in output:
        return Hydra(mpiexec, "PMI_RANK", ("-disable-auto-cleanup",))
    if "Intel" in output:  # never tested
        return Hydra(mpiexec, "PMI_RANK")
    if "Open MPI" in output or "OpenRTE" in output or "PRRTE" in output:
        return OpenMpi(mpiexec, "OMPI_COMM_WORLD_RANK")
    raise ValueError(
        f"{mpiexec} is neither Hydra's (MPICH) nor Open MPI's; it says {output[:200]!r}"
    )
