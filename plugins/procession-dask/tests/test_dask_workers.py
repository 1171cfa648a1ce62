"""Launches with workers that die, are busy, lack something, or are threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dask_ranks
from dask_cluster import await_single_threads, end, get_client, get_cluster, list_jobs, submit
from procession import ProcessExitedException, StartError, get_backend, run
from procession.testing import remote_ranks
from procession.testing.remote import assert_all_gone
from procession.testing.scratch import Stage
from procession.testing.subject import Subject, wait_until
from procession_dask.clients import load


@pytest.fixture
def pair() -> list[str]:
    """Two workers with one thread each."""
    return sorted(await_single_threads())


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    wait_until(lambda: not list_jobs(), f"the scheduler still has {list_jobs()}")


@pytest.mark.parametrize("transport", ["connect", "dask"])
def test_a_rank_is_lost_with_its_worker(tmp_path: Path, pair: list[str], transport: str) -> None:
    options = {"client": get_client(), "workers": pair, "transport": transport}
    subject = Subject(get_backend("dask"), options, tmp_path)
    with subject.start(remote_ranks.sleep, str(tmp_path)) as context:
        agents = [int(subject.await_cue(f"agent {rank}")) for rank in range(2)]
        [subject.await_cue(f"asleep {rank}") for rank in range(2)]
        begun = time.monotonic()
        os.kill(dask_ranks.get_parent(agents[1]), signal.SIGKILL)
        with pytest.raises(ProcessExitedException) as caught:
            context.wait()
        took = time.monotonic() - begun
    root = caught.value.failures[0]
    assert (root.rank, root.kind) == (1, "lost")
    assert took < 5
    assert_all_gone(subject)
    await_single_threads()  # the nanny has started another worker, where Dask could run the task again
    assert [subject.stage.read(f"calls {rank}") for rank in range(2)] == [".", "."]


def test_too_few_threads_are_refused(pair: list[str]) -> None:
    options = {"client": get_client(), "workers": pair, "start_timeout": 0.3}
    with pytest.raises(StartError, match="0 of 2 worker threads are busy") as caught:
        run(dask_ranks.double, (1,), 3, start_method="dask", options=options)
    assert (caught.value.nprocs, caught.value.slots) == (3, 2)


def test_workers_are_filled_in_the_order_given(pair: list[str]) -> None:
    pids = get_client().run(os.getpid)
    for workers in (pair, pair[::-1]):
        options = {"client": get_client(), "workers": workers}
        found = run(dask_ranks.tell_worker, nprocs=2, start_method="dask", options=options)
        assert found == [pids[worker] for worker in workers]


def test_busy_threads_do_not_count(tmp_path: Path, pair: list[str]) -> None:
    options = {"client": get_client(), "workers": pair, "start_timeout": 0.3}
    with occupied(tmp_path, pair[:1]) as leave:
        with pytest.raises(StartError, match="1 of 2 worker threads are busy"):
            run(dask_ranks.double, (1,), 2, start_method="dask", options=options)
        assert [key for key in list_jobs() if key.startswith("procession")] == []
        timer = threading.Timer(0.5, leave)
        timer.start()
        options["start_timeout"] = 30
        assert run(dask_ranks.double, (1,), 2, start_method="dask", options=options) == [2, 3]
        timer.join()


def test_ranks_keep_tasks_away_from_their_threads(tmp_path: Path, pair: list[str]) -> None:
    options = {"client": get_client(), "workers": pair}
    subject = Subject(get_backend("dask"), options, tmp_path)
    with subject.start(remote_ranks.sleep, str(tmp_path)):
        waiting = submit(pair, os.getpid)
        with pytest.raises(StartError, match="2 of 2 worker threads are busy"):
            subject.run(dask_ranks.double, 1, nprocs=1, options={**options, "start_timeout": 0.1})
        assert not waiting.done()
    assert waiting.result(timeout=30) > 1
    waiting.release()


def test_the_error_names_a_busy_thread_that_the_scheduler_does_not_know(
    tmp_path: Path, pair: list[str]
) -> None:
    options = {"client": get_client(), "workers": pair, "start_timeout": 1}
    with occupied(tmp_path, pair[1:]) as leave:
        forget_tasks()
        match = f"1 have arrived.*: rank 1 waits for a thread of {pair[1]}"
        with pytest.raises(StartError, match=match) as caught:
            run(dask_ranks.double, (1,), 2, start_method="dask", options=options)
        assert caught.value.came == 1
        wait_until(lambda: not list_jobs(), "the scheduler has tasks of the launch")
        leave()
    options["start_timeout"] = 30
    assert run(dask_ranks.double, (1,), 2, start_method="dask", options=options) == [2, 3]


def test_a_worker_that_dies_while_ranks_start_is_named(tmp_path: Path, pair: list[str]) -> None:
    options = {"client": get_client(), "workers": pair}
    with occupied(tmp_path, pair[1:]):
        forget_tasks()
        pids = get_client().run(os.getpid)
        killer = threading.Thread(target=kill_once_queued, args=(pids[pair[1]],))
        killer.start()
        with pytest.raises(StartError, match=f"worker {pair[1]} is gone"):
            run(dask_ranks.double, (1,), 2, start_method="dask", options=options)
        killer.join()
    await_single_threads()


def test_a_worker_without_the_plugin_is_named(pair: list[str]) -> None:
    cluster, client = get_cluster(), get_client()
    before = client.nthreads()
    process = cluster.start_worker(1, hiding=True)
    try:
        client.wait_for_workers(len(before) + 1, timeout=60)
        [bare] = client.nthreads().keys() - before
        options = {"client": client, "workers": [bare]}
        with pytest.raises(StartError, match=f"worker {bare} lacks procession-dask"):
            run(dask_ranks.double, (1,), 1, start_method="dask", options=options)
        options = {"client": client, "workers": [*pair, bare]}
        with pytest.raises(StartError, match=f"worker {bare} lacks procession-dask"):
            run(dask_ranks.double, (1,), 3, start_method="dask", options=options)
    finally:
        end(process)
        cluster.processes.remove(process)


def test_workers_that_the_scheduler_does_not_know_are_named() -> None:
    options = {"client": get_client(), "workers": ["tcp://127.0.0.1:1"], "start_timeout": 0}
    with pytest.raises(StartError, match=r"does not know tcp://127\.0\.0\.1:1"):
        run(dask_ranks.double, (1,), 1, start_method="dask", options=options)


@pytest.mark.parametrize("processes", [True, False], ids=["processes", "threads"])
def test_a_local_cluster_needs_no_option(processes: bool, tmp_path: Path) -> None:
    distributed = load()
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=3,
            processes=processes,
            dashboard_address=":0",
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = run(dask_ranks.tell_process, nprocs=2, start_method="dask")
        assert len({pid for pid, _ in found}) == 2
        assert {address for _, address in found} == {"127.0.0.1"}
        assert not any(client.processing().values())
        if not processes:  # the workers of a nanny are daemonic, and cannot
            assert client.submit(dask_ranks.nest, 1).result(timeout=60) == [2, 3]


@pytest.mark.parametrize("transport", ["connect", "dask"])
def test_large_arguments_and_results_arrive(pair: list[str], transport: str) -> None:
    numpy = pytest.importorskip("numpy")
    options = {"client": get_client(), "transport": transport}
    array = numpy.ones(1_000_000)
    got = run(dask_ranks.get_last, (array,), 4, start_method="dask", options=options)
    assert got == [1, 2, 3, 4]
    results = run(dask_ranks.count, (20_000_000,), 2, start_method="dask", options=options)
    assert [bytes(result) for result in results] == [
        dask_ranks.count(rank, 20_000_000) for rank in (0, 1)
    ]


def kill_once_queued(pid: int) -> None:
    wait_until(lambda: len(list_jobs()) == 2, "no ranks are being started")
    os.kill(pid, signal.SIGKILL)


@contextmanager
def occupied(folder: Path, workers: list[str]) -> Iterator[Callable[[], None]]:
    """Keep a task in a thread of each of these workers; provide a function that ends the tasks."""
    stage = Stage(str(folder), 0)
    for number, worker in enumerate(workers):
        _tasks.append(submit([worker], dask_ranks.occupy, str(folder), number))
        wait_until(lambda: stage.read(f"occupied {number}") is not None, "no task has begun")  # noqa: B023
    try:
        yield lambda: stage.tell("leave")
    finally:
        stage.tell("leave")
        for future in _tasks:
            future.result(timeout=30)
        forget_tasks()


_tasks: list[Any] = []


def forget_tasks() -> None:
    """Make the scheduler forget the tasks that occupy threads, although they still run."""
    while _tasks:
        _tasks.pop().release()
    wait_until(lambda: not list_jobs(), "the scheduler has tasks")
