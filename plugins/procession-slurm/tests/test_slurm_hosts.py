"""Ranks on two hosts, which are network namespaces: they meet, a far one is killed, the cable is cut."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from procession import ProcessException, ProcessExitedException, StartError, get_backend
from procession.testing import remote_ranks
from procession.testing.outcomes import assert_gone
from procession.testing.remote import fail_at
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject, wait_until
from slurm_cluster import CPUS, FAR_CPUS, Cluster, cluster
from slurm_ranks import reduce_with_gloo, see

__all__ = ["cluster"]

SPREAD = {"partition": "both", "nodes": 2, "ntasks_per_node": 1}


@pytest.fixture
def subject(cluster: Cluster, tmp_path: Path) -> Subject:
    """The backend, with one rank on each host."""
    if not cluster.far:
        pytest.skip(cluster.why_not_two)
    return Subject(get_backend("slurm"), {"advertise": cluster.address, **SPREAD}, tmp_path)


def test_a_launch_without_an_address_that_ranks_can_reach_is_refused(subject: Subject) -> None:
    for options in (SPREAD, {"partition": "both"}, {"nodes": 2}, {"nodelist": "there"}):
        with pytest.raises(ValueError, match=r"listens at 127\.0\.0\.1; give 'advertise'"):
            subject.run(see, options=options)


def test_an_address_that_ranks_cannot_reach_is_an_error(subject: Subject) -> None:
    with pytest.raises(StartError, match=r"a task ended at once; it said:\n") as caught:
        subject.run(see, options={**subject.options, "advertise": "127.0.0.1"})
    assert "cannot reach its caller at 127.0.0.1, port" in str(caught.value)


def test_ranks_have_numbers_by_host(subject: Subject) -> None:
    seen = subject.run(see, "SLURMD_NODENAME", "SLURM_PROCID")
    assert [tuple(each.values()) for _, each in seen] == [("here", "0"), ("there", "1")]


def test_the_slots_of_all_hosts_count(subject: Subject) -> None:
    options: Any = {"advertise": subject.options["advertise"], "partition": "both"}
    message = f"there are {CPUS + FAR_CPUS} slots"
    with pytest.raises(RuntimeError, match=message):
        subject.run(see, nprocs=CPUS + FAR_CPUS + 1, options=options)
    with pytest.raises(RuntimeError, match=f"there are {FAR_CPUS + 2} slots"):
        subject.run(see, nprocs=5, options={**options, "ntasks_per_node": 2})


def test_ranks_meet_over_the_network(subject: Subject, cluster: Cluster) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    env = {
        "GLOO_SOCKET_IFNAME": cluster.link
    }  # gloo would look up the name, which both hosts share
    assert subject.run(reduce_with_gloo, env=env) == [(3.0, "here"), (3.0, "there")]


def test_a_killed_rank_on_the_far_host_is_reported_at_once(subject: Subject) -> None:
    took, error = fail_at(subject, partial(remote_ranks.kill_beside_a_sleeper, "rank"))
    assert isinstance(error, ProcessExitedException)
    assert (error.error_index, error.signal_name) == (1, "SIGKILL")
    assert took < 5
    assert_gone(subject.stage.noted())


def test_a_cut_cable_is_reported_and_the_far_rank_ends(subject: Subject, cluster: Cluster) -> None:
    options = {**subject.options, "contact_timeout": 4}
    with subject.start(remote_ranks.sleep, str(subject.folder), options=options) as context:
        for rank in range(2):
            subject.await_cue(f"asleep {rank}")
        cluster.set_link("down")
        cut = time.monotonic()
        with pytest.raises(ProcessException) as caught:
            context.wait()
        assert time.monotonic() - cut < 15
    root = caught.value.failures[0]
    assert (root.rank, root.kind) == (1, "lost")
    for pid in subject.stage.noted():
        wait_until(partial(is_gone, pid), f"{pid} runs on", 10)
    cluster.set_link("up")
    wait_until(lambda: not cluster.list_jobs(), "the job is still there", 60)
