"""Compares the kernel's count of out-of-memory kills before and after a launch: evidence for SIGKILL."""

from __future__ import annotations

import os

_CGROUPS = "/sys/fs/cgroup"


def count_kills() -> dict[str, int]:
    """Return the readable counters, by file: those of this process's cgroup, else the machine's."""
    counters = {}
    for path in _candidates():
        count = _read_counter(path)
        if count is not None:
            counters[path] = count
    return counters


def tell_kills(before: dict[str, int]) -> str:
    """Describe whether a counter has moved since `count_kills` returned ``before``."""
    if not before:
        return "no counter of the kernel's OOM kills can be read here"
    now = count_kills()
    for path, count in before.items():
        if now.get(path, count) > count:
            return (
                "the kernel's OOM killer was at work meanwhile: "
                f"oom_kill in {path} went from {count} to {now[path]}"
            )
    return f"the kernel's OOM counter did not move (oom_kill in {', '.join(before)})"


def _candidates() -> list[str]:
    """Return the paths of memory.events (cgroup v2) and memory.oom_control (v1), else /proc/vmstat."""
    try:
        lines = _read_lines("/proc/self/cgroup")
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [f"{_CGROUPS}{path}/memory.events", f"{_CGROUPS}/unified{path}/memory.events"]
        elif "memory" in controllers.split(","):
            found += [f"{_CGROUPS}/memory{path}/memory.oom_control"]
    return [file for file in found if os.path.exists(file)] or ["/proc/vmstat"]


def _read_lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _read_counter(path: str) -> int | None:
    try:
        lines = _read_lines(path)
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None
