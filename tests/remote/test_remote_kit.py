"""The kit certifies the start method `command`, with a script in place of a batch system's launcher."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import standin
from kit_runs import run_kit
from procession import Backend, get_backend
from procession.testing import RemoteConformance
from procession.testing.hosts import FarHost
from procession.testing.two_hosts import TwoHostConformance


class TestCommand(RemoteConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("command")

    @pytest.fixture
    def launch_options(self, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.setenv("STANDIN", "")
        return standin.options()


class TestTwoHosts(TwoHostConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return get_backend("command")

    @pytest.fixture
    def launch_options(self, far: FarHost, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.setenv("STANDIN", "")
        return standin.options(
            f"if rank: command = {list(far.prefix)!r} + command", advertise=far.near_address
        )


def certify(folder: Path, chosen: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """Run part of the kit on `command` from the command line."""
    options = [f"{name}={json.dumps(value)}" for name, value in standin.options(more).items()]
    given = [word for option in options for word in ("--procession-option", option)]
    return run_kit(folder, "--procession-backend", "command", "-rs", "-k", chosen, *given)


def test_the_command_line_runs_the_remote_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN", "")
    done = certify(tmp_path, "killed_agent or main_module")
    assert done.returncode == 0, done.stdout
    assert "not certified: 3 of " in done.stdout
    assert "3 passed" in done.stdout
    assert "the remote part" not in done.stdout


def test_the_command_line_says_that_it_left_out_the_remote_part_for_ranks_on_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = ["unshare", "--uts", "sh", "-c", 'hostname far; exec "$@"', "sh"]
    if subprocess.run([*far, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user or sandbox cannot give a process another host name")
    monkeypatch.setenv("STANDIN", "")
    done = certify(tmp_path, "killed_agent or is_a_backend", f"command = {far!r} + command")
    assert done.returncode == 1, done.stdout
    reason = "the remote part was not run: the ranks are on other machines"
    assert f"not certified: {reason}\n" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_a_test_that_needs_cloudpickle_is_skipped_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "import sys; sys.modules['cloudpickle'] = None\n"
    tmp_path.joinpath("sitecustomize.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STANDIN", "")
    done = certify(tmp_path, "main_module")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "cloudpickle is missing: pip install cloudpickle (1 tests)" in done.stdout
