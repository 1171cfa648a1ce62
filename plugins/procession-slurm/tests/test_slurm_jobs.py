"""In a batch script, in salloc and in a task of a step, ranks are a step of the job, with its options."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from procession import (
    ProcessException,
    ProcessExitedException,
    Signals,
    StartError,
    get_backend,
    start_processes,
)
from procession.testing import remote_ranks
from procession.testing.outcomes import assert_gone
from procession.testing.subject import Subject, wait_until
from slurm_cluster import CPUS, Cluster, cluster
from slurm_ranks import read_parent, save_on_usr1, say, sum_array

__all__ = ["cluster"]

HERE = Path(__file__).parent

PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from procession import StartError, run
from slurm_ranks import see

def launch(nprocs, **options):
    try:
        for rank, seen in run(see, nprocs=nprocs, start_method="slurm", options=options):
            print(rank, *seen.values())
    except (StartError, ValueError) as error:
        print(error)

"""


def write_program(folder: Path, text: str) -> str:
    """Write a script; return its path."""
    script = folder / "train.py"
    script.write_text(PROGRAM.format(here=str(HERE)) + textwrap.dedent(text))
    return str(script)


def submit(cluster: Cluster, folder: Path, script: str, *flags: str) -> str:
    """Run a script as a batch job; return its output."""
    job, output = folder / "job.sh", folder / "job.out"
    job.write_text(f"#!/bin/bash\n{sys.executable} {script}\n")
    cluster.ask("sbatch", f"--output={output}", *flags, str(job))
    wait_until(lambda: not cluster.list_jobs(), "the job does not end", 60)
    return output.read_text()


def test_ranks_of_a_batch_script_are_a_step_of_its_job(cluster: Cluster, tmp_path: Path) -> None:
    script = write_program(tmp_path, "launch(None)")
    assert (
        submit(cluster, tmp_path, script, "--ntasks=2", "--cpus-per-task=3")
        == (
            "0 0 2 1 3\n1 1 2 1 3\n"  # with the job's processors per task, which srun alone would not keep
        )
    )
    assert not cluster.list_jobs()


def test_more_ranks_than_fit_the_job_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    script = write_program(
        tmp_path, "launch(3); launch(6, cpus_per_task=1); launch(7, cpus_per_task=1)"
    )
    printed = submit(cluster, tmp_path, script, "--ntasks=2", "--cpus-per-task=3").splitlines()
    assert "cannot start 3 ranks (there are 2 slots): job " in printed[0]
    assert printed[0].endswith(
        " has 6 processors on its nodes, and each rank takes 3 (option cpus_per_task)"
    )
    assert [line.split()[0] for line in printed[1:7]] == [str(rank) for rank in range(6)]
    assert "cannot start 7 ranks (there are 6 slots): job " in printed[7]


def test_ranks_are_a_step_of_salloc(cluster: Cluster, tmp_path: Path) -> None:
    script = write_program(
        tmp_path,
        f"launch(2); launch(2, advertise='127.0.0.1'); launch({CPUS + 1}, advertise='::1')",
    )
    printed = cluster.ask("salloc", "--quiet", "--ntasks=2", sys.executable, script)
    assert "ranks on other hosts (job " in printed[0]  # not known by this name as a node
    assert "give 'advertise'" in printed[0]
    assert printed[1:3] == ["0 0 2 1 None", "1 1 2 1 None"]
    assert "there are 2 slots" in printed[3]


def test_a_task_that_has_all_processors_can_start_ranks(cluster: Cluster, tmp_path: Path) -> None:
    script = write_program(tmp_path, "launch(4); launch(None)")
    task = ("srun", "--ntasks=1", f"--cpus-per-task={CPUS}", "--distribution=cyclic")
    printed = cluster.ask(*task, sys.executable, script)
    assert printed[:4] == [f"{rank} {rank} 4 1 None" for rank in range(4)]
    assert "nprocs=None takes --ntasks of the caller's job" in printed[4]


def test_steps_of_a_script_wait_for_each_other_or_overlap(cluster: Cluster, tmp_path: Path) -> None:
    script = write_program(
        tmp_path,
        """
        import subprocess, time
        step = subprocess.Popen(["srun", "--ntasks=2", "bash", "-c", "echo begun; sleep 300"],
                                stdout=subprocess.PIPE)
        step.stdout.readline()
        launch(2, start_timeout=1)
        launch(2, overlap=True)
        step.terminate()
        step.wait()
        """,
    )
    printed = submit(cluster, tmp_path, script, "--ntasks=2")
    assert "where another step holds its processors, the option overlap shares them\n" in printed
    assert "0 0 2 1 None\n1 1 2 1 None\n" in printed


@pytest.mark.usefixtures("cluster")
def test_a_job_that_has_ended_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its variables stay, for example in a shell of a terminal multiplexer."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with pytest.raises(StartError, match="Invalid job id specified"):
        Subject(get_backend("slurm"), {"advertise": "127.0.0.1"}, tmp_path).run(
            remote_ranks.tell_place
        )


@pytest.fixture
def subject(cluster: Cluster, tmp_path: Path) -> Subject:
    """The backend, on that cluster."""
    return Subject(get_backend("slurm"), {"advertise": cluster.address}, tmp_path)


def test_a_job_that_is_cancelled_ends_ranks_by_sigterm(subject: Subject, cluster: Cluster) -> None:
    with subject.start(remote_ranks.sleep, str(subject.folder)) as context:
        await_ranks(subject)
        [job] = {
            line.split()[0] for line in cluster.list_jobs() if line.startswith("step") is False
        }
        cancelled = time.monotonic()
        cluster.ask("scancel", job)
        with pytest.raises(ProcessExitedException) as caught:
            context.wait()
        assert time.monotonic() - cancelled < 4
    assert caught.value.signal_name == "SIGTERM"
    assert_gone(subject.stage.noted())
    wait_until(lambda: not cluster.list_jobs(), "the job is still there")


def test_a_signal_from_slurm_reaches_ranks(subject: Subject, cluster: Cluster) -> None:
    """``sbatch --signal`` sends such a signal to the steps of a job before the time limit."""
    with subject.start(
        save_on_usr1, str(subject.folder), signals=Signals(forward=(signal.SIGUSR1,))
    ) as context:
        await_ranks(subject)
        [job] = {line.split()[0] for line in cluster.list_jobs() if not line.startswith("step")}
        cluster.ask("scancel", "--signal=USR1", job)
        assert context.results() == ["SIGUSR1"] * 2
    wait_until(lambda: not cluster.list_jobs(), "the job is still there")


def test_ranks_end_when_their_step_daemon_is_killed(subject: Subject, cluster: Cluster) -> None:
    with subject.start(remote_ranks.sleep, str(subject.folder)) as context:
        await_ranks(subject)
        killed = time.monotonic()
        os.kill(read_parent(int(subject.await_cue("agent 0"))), signal.SIGKILL)
        with pytest.raises(ProcessException) as caught:
            context.wait()
        assert time.monotonic() - killed < 5
    assert {one.kind for one in caught.value.failures} == {"lost"}
    assert_gone(subject.stage.noted())
    wait_until(lambda: not cluster.list_jobs(), "the job is still there")


def await_ranks(subject: Subject) -> None:
    """Wait until two ranks sleep."""
    for rank in range(2):
        subject.await_cue(f"asleep {rank}")


def test_lines_that_ranks_write_stay_whole(
    subject: Subject, capfd: pytest.CaptureFixture[str]
) -> None:
    subject.run(say, nprocs=2)
    out, err = capfd.readouterr()
    lines = ["rank 0 says this", "rank 1 says this"]
    assert sorted(out.replace("rank 0 ends", "").replace("rank 1 ends", "").split("\n")) == [
        "",
        *lines,
    ]
    assert sorted(err.split("\n")) == ["", "rank 0 errs", "rank 1 errs"]


def test_a_large_array_arrives(subject: Subject) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    array = numpy.ones(1 << 22)
    assert subject.run(sum_array, array, nprocs=4) == [(1 << 22) + rank for rank in range(4)]


def test_an_option_names_the_interpreter(subject: Subject) -> None:
    options = {**subject.options, "python": sys.executable}
    assert subject.run(remote_ranks.meet, nprocs=2, options=options) == [2, 1]


def test_options_reach_srun(cluster: Cluster) -> None:
    context = start_processes(
        remote_ranks.meet,
        nprocs=2,
        join=False,
        start_method="slurm",
        options={
            "advertise": cluster.address,
            "partition": "main",
            "job_name": "of mine",
            "time": 5,
            "nodelist": "here",
            "arguments": ["--comment=and more"],
        },
    )
    with context:
        [printed] = cluster.ask("squeue", "--noheader", "--format=%P|%j|%l|%C|%k")
    assert printed == "main|of mine|5:00|2|and more"
