"""Options, the variables of a job and the end of the keeper, without a Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from procession import run
from procession.remote import Agents, Common
from procession_slurm import room
from procession_slurm.backend import SlurmBackend
from procession_slurm.options import NAMES, check_options
from procession_slurm.room import Job, Room, read_job
from procession_slurm.srun import compose_command, compose_environment

AGENTS = Agents(4, ("agent",), "description", -1)
TASK = Job("7", is_task=True)
SCRIPT = Job("7", is_task=False)


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM", "SRUN"))]:
        monkeypatch.delenv(name)


def compose(job: Job | None = None, start_timeout: float = 60.0, **options: Any) -> list[str]:
    """Return the arguments of srun before the command of a task."""
    command = compose_command("srun", AGENTS, options, Common(start_timeout=start_timeout), job)
    return command[1 : command.index(sys.executable)]


ALWAYS = [
    "--ntasks=4",
    "--immediate=65",
    "--export=ALL",
    "--input=none",
    "--kill-on-bad-exit=0",
    "--wait=0",
    "--job-name=procession",
]


def test_arguments_of_srun_override_the_environment_and_the_site() -> None:
    assert compose() == ALWAYS
    assert compose(SCRIPT) == ALWAYS


def test_a_task_shares_the_resources_of_its_step_by_default() -> None:
    assert compose(TASK) == [*ALWAYS, "--overlap"]
    assert compose(SCRIPT, overlap=True) == [*ALWAYS, "--overlap"]
    assert compose(TASK, overlap=False) == ALWAYS
    assert compose(overlap=True) == ALWAYS  # a new job has nothing to share


def test_options_become_arguments_of_srun() -> None:
    options: dict[str, Any] = dict.fromkeys(
        NAMES - {"overlap", "immediate", "srun", "arguments"}, 1
    )
    flags = compose(**options, immediate=3, arguments=["--label", "-v"])
    assert flags[:7] == [*ALWAYS[:1], "--immediate=3", *ALWAYS[2:]]
    assert sorted(flags[7:-2]) == sorted(f"--{name.replace('_', '-')}=1" for name in options)
    assert flags[-2:] == ["--label", "-v"]
    assert "--immediate=8" in compose(start_timeout=2.5)


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("nodes", "2", TypeError, r"options\['nodes'\] must be an int, not '2'"),
    ("nodes", True, TypeError, r"options\['nodes'\] must be an int, not True"),
    ("cpus_per_task", 0, ValueError, r"options\['cpus_per_task'\] must be at least 1, not 0"),
    ("immediate", 1.5, TypeError, r"options\['immediate'\] must be an int, not 1.5"),
    ("partition", 1, TypeError, r"options\['partition'\] must be a str, not 1"),
    ("account", "", ValueError, r"options\['account'\] must be a name, not ''"),
    ("time", 1.5, TypeError, r"options\['time'\] must be a str, or an int, not 1.5"),
    ("overlap", 1, TypeError, r"options\['overlap'\] must be True, False or None, not 1"),
    ("arguments", "--label", TypeError, r"options\['arguments'\] must be a list of str"),
    ("arguments", [1], TypeError, r"options\['arguments'\] must be a list of str, not \[1\]"),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), BAD)
def test_a_bad_option_is_named(name: str, value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_options({name: value})


def test_the_error_names_a_missing_srun() -> None:
    with pytest.raises(ValueError, match=r"options\['srun'\]: there is no program 'no such srun'"):
        run(abs, start_method=WithSrun(), options={"srun": "no such srun"})


class WithSrun(SlurmBackend):
    """Claims to be available even without srun."""

    def availability(self) -> Any:
        from procession import Availability

        return Availability(True)


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, SCRIPT),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, SCRIPT),  # as a batch script has it
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, TASK),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "4294967290"}, SCRIPT),  # an interactive step
    ],
)
def test_variables_identify_the_job(
    variables: dict[str, str], job: Job | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_job() == job


def test_nprocs_none_is_the_number_of_the_jobs_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with pytest.raises(ValueError, match="nprocs=None takes --ntasks of the caller's job"):
        SlurmBackend().default_nprocs({})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert SlurmBackend().default_nprocs({}) == 3


def test_srun_does_not_get_variables_of_a_steps_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_step = ("SLURM_CPU_BIND", "SLURM_CPU_BIND_TYPE", "SLURM_NTASKS", "SLURM_DISTRIBUTION")
    for name in (*of_the_step, "SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_GPUS"):
        monkeypatch.setenv(name, "1")
    env = compose_environment(AGENTS, {}, SCRIPT)
    assert all(name in env for name in of_the_step)
    assert env["PROCESSION_AGENT"] == "description"
    env = compose_environment(AGENTS, {"mem": "1G"}, TASK)
    left = {name for name in env if name.startswith("SLURM")}
    assert left == {"SLURM_JOB_ID", "SLURM_GPUS"}


def test_srun_gets_no_more_nodes_than_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for nodes in (4, 5):
        monkeypatch.setenv("SLURM_NNODES", str(nodes))
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(nodes))
        env = compose_environment(AGENTS, {}, SCRIPT)
        assert ("SLURM_NNODES" in env, "SLURM_JOB_NUM_NODES" in env) == ((nodes == 4),) * 2


def test_variables_give_the_room_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "8(x2),4")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    found = SCRIPT.find_room({})
    assert found == Room("job 7", ((8, 8, 4),), "n[1-3]")
    assert found.count_slots(1, None, None) == 20
    assert found.count_slots(3, None, None) == 5
    assert found.count_slots(1, 5, None) == 14
    assert found.count_slots(1, None, 2) == 16
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    assert SCRIPT.find_room({"nodelist": "n2"}).other_hosts == ""
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "of another form")
    assert SCRIPT.find_room({}).cpus == ()


def test_slurm_gives_the_room_of_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["small*|a|host-a|2", "large|a|host-a|2", *(f"large|n{n}|h{n}|8" for n in range(4))]
    monkeypatch.setattr(room, "ask", lambda *_: [*lines, "CLUSTER: other"])
    assert room.ask_partition("srun", {}) == Room("partition small", ((2,),), "a")
    large = room.ask_partition("srun", {"partition": "large,small"})
    assert large.count_slots(1, None, None) == 34
    assert large.other_hosts == "a, n0, n1 and 2 more"
    monkeypatch.setenv("SLURMD_NODENAME", "a")
    assert room.ask_partition("srun", {}).other_hosts == ""


KEEP = "import sys; sys.path[:] = {!r}; from procession_slurm.keeper import main; main()"


def keep(*command: str) -> int:
    """Run a command by a keeper; return the keeper's exit code."""
    code = KEEP.format(sys.path)
    return subprocess.run([sys.executable, "-c", code, str(os.getpid()), *command]).returncode


def test_a_keeper_ends_like_its_command() -> None:
    assert keep("/bin/sh", "-c", "exit 3") == 3
    assert keep("/bin/sh", "-c", "kill -KILL $$") == -signal.SIGKILL
    assert keep("/bin/sh", "-c", "kill -TERM $$") == -signal.SIGTERM
    assert keep("/nonexistent") == 127
