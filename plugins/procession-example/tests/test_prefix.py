"""The kit certifies the plugin, and ranks run under its commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import procession
from procession import ProcessRaisedException, RankPlace, get_backend, run, start_processes
from procession.testing import BackendConformance


class TestNice(BackendConformance):
    @pytest.fixture
    def backend(self) -> procession.Backend:
        return get_backend("nice")


class TestTaskset(BackendConformance):
    @pytest.fixture
    def backend(self) -> procession.Backend:
        return get_backend("taskset")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        return {"arguments": ["-c", ",".join(map(str, os.sched_getaffinity(0)))]}


def see_niceness(rank: int) -> int:
    return os.nice(0)


def see_processors(rank: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))


def raise_(rank: int) -> None:
    raise ValueError(f"of rank {rank}")


def trace_to(place: RankPlace) -> list[str]:
    return ["-qq", "-o", f"trace.{place.rank}"]


def need(program: str, *arguments: str) -> None:
    """Skip a test if a program is missing, or the kernel does not let it work."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {program}")
    tried = subprocess.run([program, *arguments, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"{program} does not work here: {tried.stderr.strip()}")


def test_ranks_have_the_niceness_of_the_arguments() -> None:
    own = os.nice(0)
    niceness = run(see_niceness, nprocs=2, start_method="nice", options={"arguments": ["-n", "3"]})
    assert niceness == [min(own + 3, 19)] * 2


def test_each_rank_can_have_its_own_arguments() -> None:
    ours = sorted(os.sched_getaffinity(0))[:2]
    options = {"arguments": lambda place: ["-c", str(ours[place.rank])]}
    seen = run(see_processors, nprocs=len(ours), start_method="taskset", options=options)
    assert seen == [[one] for one in ours]


def test_any_command_is_a_prefix() -> None:
    options = {"arguments": ["env", "--unset=HOME", "nice", "-n", "2"]}
    assert run(see_niceness, start_method="prefix", options=options) == [min(os.nice(0) + 2, 19)]


def test_strace_traces_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("strace", "-qq", "-f")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProcessRaisedException, match="ValueError: of rank"):
        start_processes(raise_, nprocs=2, start_method="strace", options={"arguments": trace_to})
    assert "execve(" in (tmp_path / "trace.0").read_text()


def test_numactl_binds() -> None:
    need("numactl", "--physcpubind=0")
    options = {"arguments": ["--physcpubind=0"]}
    assert run(see_processors, start_method="numactl", options=options) == [[0]]


def test_unshare_makes_a_namespace() -> None:
    need("unshare", "--uts")
    assert run(see_name, start_method="unshare", options={"arguments": ["--uts"]}) == ["changed"]


def see_name(rank: int) -> str:
    import socket

    socket.sethostname("changed")
    return socket.gethostname()


def test_the_error_names_a_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(procession.BackendUnavailableError, match="nice is not on PATH"):
        get_backend("nice")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ([], ValueError, r"needs options=\{'arguments': \[PROGRAM"),
        ("nice -n 5", TypeError, "must be a list of str, not 'nice -n 5'"),
        ([1], TypeError, r"must be a list of str, not \[1\]"),
        (["no-such-program"], FileNotFoundError, "no-such-program"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        start_processes(see_niceness, start_method="prefix", options={"arguments": arguments})


def test_the_plugin_is_short() -> None:
    """An author who knows only the guide needs 60 lines."""
    import procession_example

    source = Path(procession_example.__file__).read_text()
    code = [line for line in source.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 60
