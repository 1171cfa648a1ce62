"""Plugins that pip installs, from tests/distributions, start ranks or fail."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

import procession
from installing import TORCH_KILLER, install, write_distribution
from procession import BackendLoadError, get_backend, list_backends
from procession._registry import entry_points


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two of these distributions and a malformed one."""
    target = tmp_path_factory.mktemp("installed")
    install(target, "procession-test-echo", "procession-test-broken")
    write_distribution(target, "procession-test-malformed", text=TORCH_KILLER)
    return target


def rank_and_arguments(rank: int, *arguments: str) -> tuple[int, tuple[str, ...], str]:
    if "fail" in arguments:
        raise LookupError(f"rank {rank} fails")
    return rank, arguments, os.environ.get("ECHO", "")


@pytest.fixture
def with_installed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the installed distributions on the path, and raise the warning of the malformed one."""
    monkeypatch.syspath_prepend(str(installed))
    entry_points.refresh()
    with pytest.warns(RuntimeWarning, match="procession-test-malformed"):
        list_backends()


@pytest.mark.usefixtures("with_installed")
def test_ranks_run_under_a_third_party_start_method() -> None:
    results = procession.run(
        rank_and_arguments,
        args=("a", "b"),
        nprocs=3,
        start_method="echo-process",
        env=lambda place: {"ECHO": str(place.rank)},
    )
    assert results == [(rank, ("a", "b"), str(rank)) for rank in range(3)]
    procession.start_processes(rank_and_arguments, nprocs=2, start_method="echo-process")


@pytest.mark.usefixtures("with_installed")
def test_a_rank_fails_under_a_third_party_start_method() -> None:
    with pytest.raises(
        procession.ProcessRaisedException, match=r"LookupError: rank \d fails"
    ) as caught:
        procession.start_processes(
            rank_and_arguments, args=("fail",), nprocs=2, start_method="echo-process"
        )
    assert "Traceback (most recent call last)" in str(caught.value)
    del caught
    gc.collect()  # a multiprocessing.Process closes its descriptors when it is collected


@pytest.mark.usefixtures("with_installed")
def test_a_broken_plugin_fails_only_when_it_is_used() -> None:
    with pytest.raises(BackendLoadError, match="cannot import name 'engine'"):
        get_backend("broken-process")
    assert get_backend("procession-test-echo:echo-process").name == "echo-process"
    statuses = {info.name: info.status for info in list_backends()}
    assert statuses["broken-process"] == "not loaded"
    assert statuses["echo-process"] == "ok"


def test_the_guide_shows_the_source_of_the_example_plugin() -> None:
    root = Path(__file__).parents[2]
    guide = (root / "docs/how-to/write-a-backend.md").read_text()
    source = root / "plugins/procession-example/src/procession_example/__init__.py"
    assert f"```python\n{source.read_text()}```" in guide


def test_the_echo_plugin_is_short(installed: Path) -> None:
    source = installed.joinpath("procession_test_echo", "__init__.py").read_text()
    code = [line for line in source.splitlines() if line.strip() and '"""' not in line]
    assert len(code) < 60
