"""Launches that Slurm would queue for ever are errors, and nothing stays queued for a caller that is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from procession import BackendUnavailableError, StartError, get_backend, run
from procession.authoring import list_children
from procession.testing import callers, remote_ranks
from procession.testing.introspect import locate_cgroup
from procession.testing.outcomes import assert_gone
from procession.testing.subject import Subject, wait_until
from slurm_cluster import CPUS, Cluster, cluster
from slurm_ranks import see

__all__ = ["cluster"]

UNFIT = {"arguments": ["--nodes=3"]}
"""An option that fits nowhere, which only Slurm knows; it queues such a job for ever."""


def launch(cluster: Cluster, nprocs: int, **options: Any) -> list[Any]:
    """Run ranks."""
    return run(see, nprocs=nprocs, start_method="slurm", options=options_of(cluster, **options))


def options_of(cluster: Cluster, **options: Any) -> dict[str, Any]:
    """Return the options of a launch."""
    return {"advertise": cluster.address, "start_timeout": 30, **options}


@pytest.fixture
def subject(cluster: Cluster, tmp_path: Path) -> Subject:
    """A subject whose launches stay in the queue."""
    return Subject(get_backend("slurm"), options_of(cluster, start_timeout=60, **UNFIT), tmp_path)


@pytest.fixture
def busy(cluster: Cluster) -> Iterator[str]:
    """A job that has all processors of the partition."""
    command = ("sbatch", "--parsable", f"--ntasks={CPUS}", "--output=/dev/null", "--wrap=sleep 300")
    [job] = cluster.ask(*command)
    wait_until(lambda: f"{job} wrap RUNNING None" in cluster.list_jobs(), "the job does not begin")
    yield job
    cluster.ask("scancel", job)
    wait_until(lambda: not cluster.list_jobs(), "the job does not end")


def test_more_ranks_than_processors_are_refused_before_anything_is_queued(
    cluster: Cluster,
) -> None:
    with pytest.raises(StartError) as caught:
        launch(cluster, CPUS // 2 + 1, cpus_per_task=2)
    assert (caught.value.nprocs, caught.value.slots) == (CPUS // 2 + 1, CPUS // 2)
    assert str(caught.value) == (
        "start method 'slurm' cannot start 9 ranks (there are 8 slots): partition main has 16 processors "
        "on its nodes, and each rank takes 2 (option cpus_per_task)"
    )
    with pytest.raises(
        StartError, match=r"there are 3 slots.*at most 3 ranks \(option ntasks_per_"
    ):
        launch(cluster, 4, ntasks_per_node=3)
    assert not cluster.list_jobs()


def test_the_error_of_a_launch_that_does_not_start_in_time_has_the_reason_of_slurm(
    cluster: Cluster, busy: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(StartError) as caught:
        launch(cluster, 2, start_timeout=1)
    assert time.monotonic() - begun < 6
    assert caught.value.came == 0
    assert "is PENDING (Resources); it said:\nsrun: job " in str(caught.value)
    assert len(cluster.list_jobs()) == 2, "more than the other job and its step"


def test_the_error_of_a_launch_that_can_never_start_has_the_reason_of_slurm(
    cluster: Cluster,
) -> None:
    with pytest.raises(StartError, match=r"job \d+ is PENDING \(Partition\w+\)"):
        launch(cluster, 3, start_timeout=1, **UNFIT)
    assert not cluster.list_jobs()


@pytest.mark.usefixtures("busy")
def test_the_option_immediate_limits_the_wait_of_srun(cluster: Cluster) -> None:
    with pytest.raises(StartError, match="srun has ended with exit code 1; it said:\n") as caught:
        launch(cluster, 2, immediate=1)
    assert "Unable to allocate resources" in str(caught.value)
    assert len(cluster.list_jobs()) == 2


def test_the_error_quotes_srun(cluster: Cluster) -> None:
    with pytest.raises(StartError, match="invalid partition specified: nowhere"):
        launch(cluster, 2, partition="nowhere")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("cgroup", ["0", "1"])
def test_nothing_stays_in_the_queue_for_a_caller_that_is_gone(
    subject: Subject, cluster: Cluster, number: int, cgroup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cgroup == "1" and not os.access(os.path.dirname(locate_cgroup(1)), os.W_OK):
        pytest.skip("cgroup v2 is not delegated to this process")
    monkeypatch.setenv("PROCESSION_CGROUP", cgroup)
    caller = callers.start(subject, remote_ranks.launch_sleepers)
    await_queued(cluster)
    caller.send_signal(number)
    caller.communicate()
    wait_until(lambda: not cluster.list_jobs(), "the job is still there", 2)


def test_nothing_stays_in_the_queue_for_an_srun_without_a_keeper(
    subject: Subject, cluster: Cluster
) -> None:
    caller = callers.start(subject, remote_ranks.launch_sleepers)
    await_queued(cluster)
    [keeper] = find_keepers(caller.pid)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not cluster.list_jobs(), "the job is still there", 2)
    caller.communicate(timeout=30)
    assert caller.returncode == 1


def await_queued(cluster: Cluster) -> None:
    """Wait until a job is in the queue."""
    wait_until(lambda: any("PENDING" in job for job in cluster.list_jobs()), "nothing is queued")


def find_keepers(caller: int) -> list[int]:
    """Return the process ids of the keepers of a caller, which run its sruns."""
    found = []
    for pid in list_children(caller):
        with suppress(OSError):
            if b"procession_slurm.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.parametrize("moment", ["keeper", "srun", "job", "rank"])
def test_a_caller_that_is_killed_while_it_starts_leaves_nothing(
    subject: Subject, cluster: Cluster, moment: str
) -> None:
    fits = Subject(subject.backend, options_of(cluster), subject.folder)
    caller = callers.start(fits, remote_ranks.launch_sleepers)
    reached: dict[str, Callable[[], object]] = {
        "keeper": lambda: find_keepers(caller.pid),
        "srun": lambda: any(map(list_children, find_keepers(caller.pid))),
        "job": cluster.list_jobs,
        "rank": lambda: fits.stage.read("agent 0"),
    }
    wait_until(lambda: reached[moment]() or None, f"there is no {moment}")
    caller.kill()
    caller.communicate()
    wait_until(lambda: not cluster.list_jobs(), "there is a job", 10)
    assert_gone(fits.stage.noted())


@pytest.mark.parametrize("fault", ["no file", "no controller", "no munge"])
def test_a_missing_controller_is_reported_soon(
    cluster: Cluster, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, text = tmp_path / "slurm.conf", Path(cluster.conf).read_text()
    if fault == "no controller":
        conf.write_text(text.replace("SlurmctldPort=", "SlurmctldPort=1 #"))
    elif fault == "no munge":
        conf.write_text(text.replace("munge.socket", "no.socket"))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    begun = time.monotonic()
    with pytest.raises(
        BackendUnavailableError, match=r"controller cannot be reached: .*SLURM_CONF"
    ):
        launch(cluster, 2)
    assert time.monotonic() - begun < 5


def test_the_backend_is_unavailable_without_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BackendUnavailableError, match=r"there is no srun on PATH \(use a host of"):
        run(see, start_method="slurm")
