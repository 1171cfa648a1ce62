"""The kernel's counters of out-of-memory kills are found, read and compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procession._supervise import oom

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file below a folder that `oom` takes for the root of the file system."""

    def write(path: str, text: str) -> None:
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def open_below(path: str, **options: Any) -> Any:
        return open(tmp_path / path.lstrip("/"), **options)

    real = os.path.exists
    monkeypatch.setattr(oom, "open", open_below, raising=False)
    monkeypatch.setattr(
        os.path,
        "exists",
        lambda path: real(tmp_path / path.lstrip("/") if str(path).startswith("/sys/") else path),
    )
    return write


def test_a_machine_has_a_counter() -> None:
    counters = oom.count_kills()
    assert counters, "this kernel has at least /proc/vmstat"
    assert "did not move" in oom.tell_kills(counters)
    path = next(iter(counters))
    assert f"{path} went from -1 to" in oom.tell_kills({**counters, path: -1})
    assert "no counter" in oom.tell_kills({})


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("0::/mine", "/sys/fs/cgroup/mine/memory.events"),
        ("0::/mine", "/sys/fs/cgroup/unified/mine/memory.events"),
        ("7:cpu,memory:/mine", "/sys/fs/cgroup/memory/mine/memory.oom_control"),
        ("0::/mine", "/proc/vmstat"),
        ("7:cpu:/mine", "/proc/vmstat"),
    ],
)
def test_the_counter_of_the_cgroup_is_read_before_that_of_the_machine(
    line: str, path: str, write: Write
) -> None:
    write("/proc/self/cgroup", f"{line}\n")
    write("/proc/vmstat", "oom_kill 9\n")
    write(path, "low 0\noom 3\noom_kill 2\n")
    before = oom.count_kills()
    assert before == {path: 2}
    write(path, "oom_kill 4\n")
    assert f"oom_kill in {path} went from 2 to 4" in oom.tell_kills(before)


def test_a_counter_that_is_gone_did_not_move(write: Write, tmp_path: Path) -> None:
    write("/proc/self/cgroup", "0::/mine\n")
    write("/sys/fs/cgroup/mine/memory.events", "oom_kill 2\n")
    before = oom.count_kills()
    (tmp_path / "sys/fs/cgroup/mine/memory.events").unlink()
    assert "did not move" in oom.tell_kills(before)


def test_without_proc_there_is_no_counter(write: Write) -> None:
    assert oom.count_kills() == {}
