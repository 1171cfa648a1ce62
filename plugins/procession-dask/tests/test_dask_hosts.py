"""Ranks on two hosts meet and are lost, also if their caller cannot reach them directly."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dask_hosts import NEAR, Hosts, two_hosts, why_not
from procession.testing.scratch import Stage, is_gone
from procession.testing.subject import wait_until

START = """
import os, signal, subprocess, sys, time
import dask_ranks
from distributed import Client
from procession import ProcessException, StartError, run, start_processes
from procession.testing import remote_ranks
from procession.testing.scratch import Stage

address, *arguments = sys.argv[1:]
client = Client(address, set_as_default=False)
client.wait_for_workers(2, timeout=60)

def start(fn, nprocs, folder, options):
    options = {"client": client, **options}
    context = start_processes(fn, (folder,), nprocs, False, start_method="dask", options=options)
    for rank in range(nprocs):
        Stage(folder, 0).await_cue(f"asleep {rank}")
    return context

def fail(context, begun):
    try:
        context.wait()
    except ProcessException as error:
        root = error.failures[0]
        return root.rank, root.kind, root.signal_name, time.monotonic() - begun
"""
MEET = """
options = {"client": client, **eval(arguments[0])}
def go(fn, *args, nprocs=4):
    return run(fn, args, nprocs, start_method="dask", options=options)
print([go(dask_ranks.tell_network), go(remote_ranks.meet), go(dask_ranks.measure, bytes(2_000_000))])
"""
REDUCE = """
options = {"client": client, **eval(arguments[0])}
print(run(dask_ranks.reduce, nprocs=3, start_method="dask", options=options))
"""
REFUSED = """
options = {"client": client, "transport": "connect"}
try:
    run(pow, (2,), 3, start_method="dask", options=options)
except StartError as error:
    print(error)
"""
KILL = """
context = start(remote_ranks.sleep, 3, arguments[1], eval(arguments[0]))
begun = time.monotonic()
os.kill(context.pids()[2], signal.SIGKILL)
print(fail(context, begun))
"""
CUT = """
from concurrent.futures import ThreadPoolExecutor
contexts = [start(remote_ranks.sleep, 3, arguments[0], eval(arguments[2]))]
contexts.append(start(remote_ranks.sleep, 1, arguments[1], eval(arguments[3])))  # far: there is no room near
begun = time.monotonic()
subprocess.run(eval(arguments[4]), check=True)
with ThreadPoolExecutor() as threads:
    print([*threads.map(lambda context: fail(context, begun), contexts)])
"""
DIRECTLY = {"advertise": NEAR, "transport": "connect"}
BY_DASK: dict[str, Any] = {}  # the caller listens at 127.0.0.1, so Dask carries for the far host
WAYS = pytest.mark.parametrize("options", [DIRECTLY, BY_DASK], ids=["directly", "by Dask"])


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


@WAYS
def test_ranks_meet(hosts: Hosts, options: dict[str, Any]) -> None:
    places, met, sizes = ast.literal_eval(hosts.run(START + MEET, repr(options)))
    assert len({network for network, _ in places}) == 2
    assert {address for _, address in places} == {NEAR}
    assert met == [4, 1, 2, 3]
    assert sizes == [2_000_000] * 4


def test_the_error_of_an_unreachable_caller_says_what_to_do(hosts: Hosts) -> None:
    said = hosts.run(START + REFUSED)
    assert "cannot connect to this process; give the option 'advertise'" in said


def test_torch_reduces_across_hosts(hosts: Hosts) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    assert ast.literal_eval(hosts.run(START + REDUCE, repr(BY_DASK))) == [6.0] * 3


@WAYS
def test_a_killed_rank_on_the_far_host_is_reported(
    hosts: Hosts, options: dict[str, Any], tmp_path: Path
) -> None:
    result = ast.literal_eval(hosts.run(START + KILL, repr(options), str(tmp_path)))
    assert result[:3] == (2, "exited", "SIGKILL")
    assert result[3] < 2
    assert_gone(tmp_path)


def test_ranks_are_lost_and_end_when_the_link_is_cut(
    hosts: Hosts, tmp_path: Path
) -> None:  # the last test, since the link stays cut
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    soon = {"contact_timeout": 5}  # by default it is 10
    ways = (repr({**way, **soon}) for way in (DIRECTLY, BY_DASK))
    arguments = [*map(str, folders), *ways, repr(hosts.cut())]
    first, second = ast.literal_eval(hosts.run(START + CUT, *arguments))
    assert (first[:2], second[:2]) == ((2, "lost"), (0, "lost"))
    assert max(first[3], second[3]) < 10
    for folder in folders:
        assert_gone(folder)


def assert_gone(folder: Path) -> None:
    for pid in Stage(str(folder), 0).noted():
        wait_until(lambda: is_gone(pid), f"process {pid} runs on", 5)  # noqa: B023
