"""The placement of agents by srun: its command, its environment, and what Slurm says of its job."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from procession import Process
from procession._cleanup import marks
from procession._launch.environment import merge
from procession._python.interpreter import SOURCE, find_executable, interpreter_flags
from procession.remote import Agents, Common, Engine
from procession_slurm.controller import ask
from procession_slurm.options import compose_flags
from procession_slurm.room import Job

_MARGIN = 5  # seconds for which srun still waits when its caller does no more, and asks Slurm why

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
"""What names begin with of variables that a task has of its own step, and that srun takes as its options."""

_NODES = ("SLURM_JOB_NUM_NODES", "SLURM_NNODES")
"""Of a job, and of which srun warns where it has more nodes than it is to have tasks."""

_MEMORY = ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_MEM_PER_NODE")
"""Of a job, and of which srun accepts one only."""

_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CALL = (
    "import sys; sys.path[:] = [*filter(None, sys.path), {!r}, {!r}]; from {} import main; main()"
)
_TASK_ENDED = re.compile(rb"^srun: error: \S+: tasks? [0-9,-]+: ", re.MULTILINE)
_LOST_WAIT = 0.5  # seconds for srun to end where a rank was lost, which it may not know
_TASKS_WAIT = 5.0  # seconds for the tasks of a start that has failed


class Srun(Engine):
    """One srun, which its keeper has started."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], job: Job | None) -> None:
        self._srun = command[0]
        self._job = job
        self._ranks: Sequence[Process] | None = None
        code = _CALL.format(_SOURCE, SOURCE, "procession_slurm.keeper")
        keeper = [find_executable(), "-I", "-S", "-c", code, str(os.getpid())]
        super().__init__([*keeper, *command], env, name=os.path.basename(self._srun))

    def follow(self, ranks: Sequence[Process]) -> None:
        """Take note of the ranks, which all have been started."""
        self._ranks = ranks

    def failure(self) -> str:
        """Return why not all agents will come: srun has ended, or one of its tasks has."""
        reason = super().failure()
        if not reason and _TASK_ENDED.search(self.said):
            reason = self.quote("a task has ended at once")
        return reason

    def explain(self) -> str:
        """Return in which state the job is, and why, and what srun has said."""
        if self._has_tasks():
            return self.quote("it has started tasks, which do not reach this process")
        if self._job is not None:
            return self.quote(
                f"job {self._job.number} has not let the step begin; where another step holds its "
                "processors, the option overlap shares them"
            )
        # a job is known by the session that it was asked for in: here, the keeper's own
        fields = "--Format=JobID:20,AllocSID:20,State:20,Reason:60"
        user = str(os.geteuid())
        for line in ask("squeue", self._srun, "--noheader", "--user", user, fields):
            number, _, told = line.partition(" ")
            session, state, *reason = told.split() or [""] * 2
            if session == str(self.popen.pid):
                return self.quote(f"job {number} is {state} ({' '.join(reason)})")
        return super().explain()

    def end(self, patience: float) -> None:
        """Wait for srun, or have it cancel its job; there is nothing to wait for in a queue."""
        if self._ranks is None:
            patience = _TASKS_WAIT if self._has_tasks() else 0
        elif any(getattr(rank, "lost", None) for rank in self._ranks):
            patience = 0
            self._end_at_once()
        super().end(patience)

    def _has_tasks(self) -> bool:
        return any(map(marks.list_children, marks.list_children(self.popen.pid)))

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
    if overlap is None:  # a step that wants the processors that the caller has would wait for it
        overlap = job is not None and job.is_task
    return [
        srun,
        f"--ntasks={agents.nprocs}",
        f"--immediate={immediate}",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=0",  # who ends for whom is the caller's to say
        "--wait=0",  # a site's WaitTime would end ranks that others have left behind
        "--job-name=procession",
        *(["--overlap"] if overlap and job is not None else []),
        *compose_flags(options),
        *(options.get("arguments") or ()),
        *_compose_task(common),
    ]


def compose_environment(
    agents: Agents, options: Mapping[str, Any], job: Job | None
) -> dict[str, str]:
    """Return the environment of srun: without what would say how another step was to be."""
    away: list[str] = []
    if job is not None and job.is_task:
        away += [name for name in os.environ if name.startswith(_OF_A_TASK)]
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if nodes.isdigit() and int(nodes) > agents.nprocs:
        away += _NODES
    if options.get("mem") is not None or options.get("mem_per_cpu") is not None:
        away += _MEMORY
    return merge(os.environ, {**dict.fromkeys(away), **agents.environment})


def _compose_task(common: Common) -> list[str]:
    """Return what srun is to start for each rank, in place of the agents' own command."""
    if common.python is not None:
        return [common.python, "-m", "procession_slurm.task"]
    code = _CALL.format(_SOURCE, SOURCE, "procession_slurm.task")
    return [find_executable(), *interpreter_flags(), "-c", code]
