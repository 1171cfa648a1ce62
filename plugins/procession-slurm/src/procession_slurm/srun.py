"""Places agents by srun: its command, its environment, and what Slurm reports of its job."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from procession import Process
from procession.authoring import SOURCE, find_executable, interpreter_flags, list_children, merge
from procession.remote import Agents, Common, Engine
from procession_slurm.controller import ask
from procession_slurm.options import compose_flags
from procession_slurm.room import Job

_MARGIN = 5  # seconds for which srun outlasts start_timeout, so that the caller can ask Slurm for the reason

_OF_A_TASK = (
    "SLURM_CPU_BIND",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_DIST_PLANESIZE",
    "SLURM_GPU_BIND",
    "SLURM_JOB_NUM_NODES",
    "SLURM_MEM_BIND",
    "SLURM_NNODES",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_TRES_BIND",
)
"""Prefixes of variables that describe a task's own step, and that srun would take as its options."""

_NODES = ("SLURM_JOB_NUM_NODES", "SLURM_NNODES")
"""Variables of a job, of which srun warns if they give more nodes than it starts tasks."""

_MEMORY = ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_MEM_PER_NODE")
"""Variables of a job, of which srun accepts only one."""

_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CALL = (
    "import sys; sys.path[:] = [*filter(None, sys.path), {!r}, {!r}]; from {} import main; main()"
)
_TASK_ENDED = re.compile(rb"^srun: error: \S+: tasks? [0-9,-]+: ", re.MULTILINE)
_LOST_WAIT = 0.5  # seconds for srun to end if a rank was lost, which srun may not know
_TASKS_WAIT = 5.0  # seconds for the tasks of a failed start to end


class Srun(Engine):
    """One srun, which runs as a child of its keeper."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], job: Job | None) -> None:
        self._srun = command[0]
        self._job = job
        self._ranks: Sequence[Process] | None = None
        code = _CALL.format(_SOURCE, SOURCE, "procession_slurm.keeper")
        keeper = [find_executable(), "-I", "-S", "-c", code, str(os.getpid())]
        super().__init__([*keeper, *command], env, name=os.path.basename(self._srun))

    def follow(self, ranks: Sequence[Process]) -> None:
        """Note the ranks, all of which have started."""
        self._ranks = ranks

    def failure(self) -> str:
        """Return why not all agents will arrive: srun has ended, or one of its tasks has."""
        reason = super().failure()
        if not reason and _TASK_ENDED.search(self.said):
            reason = self.quote("a task ended at once")
        return reason

    def explain(self) -> str:
        """Return the state of the job, the reason for it, and the output of srun."""
        if self._has_tasks():
            return self.quote("it has started tasks, which do not reach this process")
        if self._job is not None:
            return self.quote(
                f"job {self._job.number} has not let the step begin; where another step holds its "
                "processors, the option overlap shares them"
            )
        # the session in which srun asked for a job identifies it: that of the keeper
        fields = "--Format=JobID:20,AllocSID:20,State:20,Reason:60"
        user = str(os.geteuid())
        for line in ask("squeue", self._srun, "--noheader", "--user", user, fields):
            number, _, rest = line.partition(" ")
            session, state, *reason = rest.split() or [""] * 2
            if session == str(self.popen.pid):
                return self.quote(f"job {number} is {state} ({' '.join(reason)})")
        return super().explain()

    def end(self, patience: float) -> None:
        """Wait for srun to end, or cancel its job; a job in the queue is cancelled at once."""
        if self._ranks is None:
            patience = _TASKS_WAIT if self._has_tasks() else 0
        elif any(getattr(rank, "lost", None) for rank in self._ranks):
            patience = 0
            self._end_at_once()
        super().end(patience)

    def _has_tasks(self) -> bool:
        return any(map(list_children, list_children(self.popen.pid)))

    def _end_at_once(self) -> None:
        try:
            self.popen.wait(_LOST_WAIT)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGQUIT)
            self.popen.wait()


def compose_command(
    srun: str, agents: Agents, options: Mapping[str, Any], common: Common, job: Job | None
) -> list[str]:
    """Return the command that starts the agents."""
    immediate = options.get("immediate") or math.ceil(common.start_timeout) + _MARGIN
    overlap = options.get("overlap")
    if (
        overlap is None
    ):  # without it, a step that needs the caller's processors would wait for the caller
        overlap = job is not None and job.is_task
    return [
        srun,
        f"--ntasks={agents.nprocs}",
        f"--immediate={immediate}",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=0",  # the caller decides which ranks to end
        "--wait=0",  # a site's WaitTime would end ranks that outlast the others
        "--job-name=procession",
        *(["--overlap"] if overlap and job is not None else []),
        *compose_flags(options),
        *(options.get("arguments") or ()),
        *_compose_task(common),
    ]


def compose_environment(
    agents: Agents, options: Mapping[str, Any], job: Job | None
) -> dict[str, str]:
    """Return the environment of srun, without variables that describe another step."""
    removed: list[str] = []
    if job is not None and job.is_task:
        removed += [name for name in os.environ if name.startswith(_OF_A_TASK)]
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if nodes.isdigit() and int(nodes) > agents.nprocs:
        removed += _NODES
    if options.get("mem") is not None or options.get("mem_per_cpu") is not None:
        removed += _MEMORY
    return merge(os.environ, {**dict.fromkeys(removed), **agents.environment})


def _compose_task(common: Common) -> list[str]:
    """Return the command that srun starts for each rank, in place of the agents' own."""
    if common.python is not None:
        return [common.python, "-m", "procession_slurm.task"]
    code = _CALL.format(_SOURCE, SOURCE, "procession_slurm.task")
    return [find_executable(), *interpreter_flags(), "-c", code]
