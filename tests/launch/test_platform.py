"""How many CPUs ranks may use by default, and which start methods work here; files of cgroups are copies."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procession._launch import platform
from procession._python import interpreter
from procession.protocol import Availability

Count = Callable[[dict[str, str]], int]


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count the processors where the affinity has 64, and of /proc and /sys there are only some files."""

    def count_with(files: dict[str, str]) -> int:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

        def open_file(path: str, **options: Any) -> Any:
            return open(f"{folder}{path}", **options)

        monkeypatch.setattr(platform, "open", open_file, raising=False)
        return platform.count_processors()

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0: range(64)}[pid])
    return count_with


def test_the_lowest_quota_of_the_own_cgroups_counts(count: Count) -> None:
    own = {"proc/self/cgroup": "4:memory:/elsewhere\n0::/a/b\n"}
    root = "sys/fs/cgroup"
    low = {f"{root}/a/cpu.max": "300000 100000\n"}
    assert count({}) == 64
    assert count({**own, f"{root}/elsewhere/cpu.max": "200000 100000\n"}) == 64
    assert count({**own, f"{root}/a/b/cpu.max": "200000 100000\n"}) == 2
    assert count({**own, **low, f"{root}/a/b/cpu.max": "max 100000\n"}) == 3
    assert count({**own, **low, f"{root}/a/b/cpu.max": "800000 100000\n"}) == 3
    assert count({**own, f"{root}/cpu.max": "150000 100000\n"}) == 2  # what is begun is a CPU
    assert count({**own, f"{root}/a/b/cpu.max": "1000 100000\n"}) == 1
    assert count({**own, f"{root}/a/b/cpu.max": "20000000 100000\n"}) == 64
    for without in ({}, {"proc/self/cgroup": "4:memory:/elsewhere\n"}):
        assert count({**without, f"{root}/cpu.max": "500000 100000\n"}) == 5


def test_a_quota_of_version_1_counts(count: Count) -> None:
    cpu = "sys/fs/cgroup/cpu/cpu.cfs"
    for quota, number in (("400000", 4), ("1", 1), ("0", 64), ("-1", 64), ("odd", 64)):
        files = {f"{cpu}_quota_us": f"{quota}\n", f"{cpu}_period_us": "100000\n"}
        assert count(files) == number


def test_without_an_affinity_all_processors_count(
    count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    for known, number in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert count({}) == number


@pytest.fixture
def anew() -> Any:
    """Forget what the module has found out, before and after."""
    platform.missing_mechanism.cache_clear()
    yield
    platform.missing_mechanism.cache_clear()


@pytest.mark.usefixtures("anew")
def test_it_says_which_mechanism_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.missing_mechanism() == ""
    assert platform.get_capabilities("fork").descendants
    platform.missing_mechanism.cache_clear()
    monkeypatch.setenv("PROCESSION_PORTABLE", "1")
    assert platform.missing_mechanism() == "PROCESSION_PORTABLE=1 is set"
    capabilities = platform.get_capabilities("fork")
    assert (capabilities.descendants, capabilities.stacks) == (False, False)
    assert (capabilities.by_reference, capabilities.context) == (True, "fork")
    assert not platform.get_capabilities("spawn").by_reference


@pytest.mark.usefixtures("anew")
def test_it_says_what_is_lost_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.get_availability("fork") == Availability(True)
    assert platform.get_availability("spawn") == Availability(True)
    monkeypatch.setattr(platform, "missing_interpreter", lambda: "no interpreter is known")
    fork, spawn = map(platform.get_availability, ("fork", "spawn"))
    assert fork.ok
    assert fork.reason.startswith("no interpreter is known: processes that ranks start outlive")
    reason = "no interpreter is known, and ranks need an interpreter"
    assert spawn == Availability(False, reason, interpreter.CHOOSE)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    reason = f"{sys.platform} has no 'fork'"
    assert platform.get_availability("fork") == Availability(False, reason, "use 'spawn'")
    monkeypatch.undo()
    platform.missing_mechanism.cache_clear()
    monkeypatch.setattr(platform, "missing_interpreter", lambda: "no interpreter is known")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert platform.get_availability("fork").reason.startswith(
        "through multiprocessing: the application is frozen: its executable is not a Python "
        "interpreter; no interpreter is known: "
    )
