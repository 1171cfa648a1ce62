"""Ranks use Ray's workers, resources, store and connection; Ray can carry all data itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from procession import Backend, ProcessExitedException, StartError, get_backend, run
from procession.testing import RemoteConformance, ranks, remote_ranks
from procession.testing.introspect import list_kept
from procession.testing.remote import assert_all_gone
from procession.testing.subject import Subject, wait_until
from procession_ray.connection import ray
from ray_cluster import SLOTS, get_cluster, list_jobs

RANK: Mapping[str, Any] = {"num_cpus": 0, "resources": {"slot": 1}}


class Checked:
    """Fixtures of the tests below, and a check that nothing is left in Ray."""

    transport = "connect"

    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("ray")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"address": get_cluster().address, "transport": self.transport, **RANK}

    @pytest.fixture
    def subject(
        self, backend: Backend, launch_options: Mapping[str, Any], tmp_path: Path
    ) -> Iterator[Subject]:
        kept = list_kept()
        yield Subject(backend, launch_options, tmp_path, here=True)
        wait_until(lambda: not list_jobs(), f"at Ray there is still: {list_jobs()}")
        assert not list_kept() - kept


class TestCarried(Checked):
    """Tests of the kit with Ray carrying all data."""

    transport = "ray"

    test_ranks_can_meet = RemoteConformance.test_ranks_can_meet
    test_a_raise_is_told_at_once = RemoteConformance.test_a_raise_is_told_at_once
    test_a_killed_rank_is_told_at_once = RemoteConformance.test_a_killed_rank_is_told_at_once
    test_a_killed_agent_is_told_at_once = RemoteConformance.test_a_killed_agent_is_told_at_once
    test_all_ends_with_the_caller = RemoteConformance.test_all_ends_with_the_caller
    test_launches_do_not_disturb_each_other = (
        RemoteConformance.test_launches_do_not_disturb_each_other
    )

    def test_large_data_arrives(self, subject: Subject) -> None:
        data = os.urandom(20 << 20)
        assert subject.run(ranks.give, data) == [(0, data), (1, data)]


@pytest.mark.parametrize("transport", ["connect", "ray"])
class TestWorkers(Checked):
    @pytest.fixture
    def launch_options(self, transport: str) -> Mapping[str, Any]:
        return {"address": get_cluster().address, "transport": transport, **RANK}

    def test_a_killed_worker_is_reported_at_once(self, subject: Subject) -> None:
        """Its rank is lost and ends, and Ray does not run fn a second time."""
        with subject.start(remote_ranks.sleep, str(subject.folder)) as context:
            for rank in range(2):
                subject.await_cue(f"asleep {rank}")
            agent = int(subject.await_cue("agent 1"))
            worker = parent_of(agent)
            begun = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(ProcessExitedException) as caught:
                context.wait()
            assert time.monotonic() - begun < 5
        root = caught.value.failures[0]
        assert (root.rank, root.kind, root.exit_code) == (1, "lost", None)
        assert_all_gone(subject)
        assert [subject.stage.read(f"calls {rank}") for rank in range(2)] == [".", "."]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class TestResources(Checked):
    def test_resources_in_use_are_an_error_after_start_timeout(self, subject: Subject) -> None:
        """Ranks wait for them until start_timeout is over."""
        first = {**RANK, "resources": {"slot": SLOTS - 1}}
        with subject.start(ranks.work, str(subject.folder), nprocs=1, options=first) as context:
            begun = time.monotonic()
            with pytest.raises(StartError) as caught:
                subject.run(ranks.nothing, options={**subject.options, "start_timeout": 1})
            assert 1 <= time.monotonic() - begun < 5
            assert f"free slot: 1 of {SLOTS}" in str(caught.value)
            context.terminate()

    def test_ranks_wait_for_resources(self, subject: Subject) -> None:
        first = {**RANK, "resources": {"slot": SLOTS}}
        with subject.start(
            ranks.work_until, str(subject.folder), "go", nprocs=1, options=first
        ) as context:
            subject.await_cue("rank 0")
            second = threading.Thread(
                target=subject.run, args=(ranks.count_calls, str(subject.folder))
            )
            second.start()
            wait_until(lambda: any("PENDING" in job for job in list_jobs()), "it does not wait")
            subject.stage.tell("go")
            assert context.wait()
            second.join()
        assert [subject.stage.read(f"calls {rank}") for rank in range(2)] == [".", "."]

    def test_ranks_wait_for_nodes_only_with_autoscaling(self, subject: Subject) -> None:
        options = {"strategy": "STRICT_SPREAD", "start_timeout": 1, **subject.options}
        with pytest.raises(StartError, match="there are 1 slots") as caught:
            subject.run(ranks.nothing, options=options)
        assert "autoscaling" in str(caught.value)
        with pytest.raises(StartError, match="start_timeout"):
            subject.run(ranks.nothing, options={**options, "autoscaling": True})

    def test_ranks_get_the_runtime_env(self, subject: Subject) -> None:
        options = {**subject.options, "runtime_env": {"env_vars": {"GIVEN": "by Ray"}}}
        assert subject.run(ranks.see_environment, "GIVEN", nprocs=1, options=options) == [
            ["by Ray"]
        ]


class TestStore(Checked):
    def test_a_large_payload_goes_through_the_store_of_ray(
        self, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is stored once for all ranks; small payloads are sent directly."""
        from procession_ray import placed

        stored = []
        store = placed._store

        def note(fd: int) -> list[Any]:
            stored.append(fd)
            return store(fd)

        monkeypatch.setattr(placed, "_store", note)
        data = os.urandom(5 << 20)
        assert subject.run(ranks.give, data, nprocs=3) == [(rank, data) for rank in range(3)]
        assert len(stored) == 1
        subject.run(ranks.give, b"", nprocs=3)
        assert len(stored) == 1

    def test_a_payload_arrives_although_the_store_has_no_room(
        self, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The payload is sent in another way."""

        def refuse(_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(ray(), "put", refuse)
        data = os.urandom(5 << 20)
        assert subject.run(ranks.give, data) == [(0, data), (1, data)]


def test_another_cluster_than_the_connected_one_is_refused() -> None:
    get_cluster()
    with pytest.raises(ValueError, match=r"ray\.shutdown\(\)"):
        run(abs, nprocs=1, start_method="ray", options={"address": "127.0.0.1:1"})
