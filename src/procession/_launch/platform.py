"""Says what this platform can do; where it lacks a mechanism, built-in backends use multiprocessing."""

from __future__ import annotations

import functools
import math
import os
import sys

from procession._linux.syscalls import pidfds_work
from procession._python.interpreter import CHOOSE, missing_interpreter
from procession.protocol import Availability, Capabilities


@functools.cache
def missing_mechanism() -> str:
    """Say what procession lacks here to start ranks itself; return "" if nothing is missing."""
    if os.environ.get("PROCESSION_PORTABLE") == "1":
        return "PROCESSION_PORTABLE=1 is set"
    if sys.platform != "linux":
        return f"{sys.platform} has no pidfds"
    if getattr(sys, "frozen", False):
        return "the application is frozen: its executable is not a Python interpreter"
    if not pidfds_work():
        return "there are no pidfds: the kernel is older than 5.3, or a sandbox forbids them"
    return ""


def get_capabilities(start_method: str) -> Capabilities:
    """Return what a built-in start method can do here."""
    whole = not missing_mechanism()
    by_reference = start_method == "fork"
    return Capabilities(
        by_reference=by_reference, descendants=whole, stacks=whole, context=start_method
    )


def get_availability(start_method: str) -> Availability:
    """Say whether a built-in start method works here, and whether it needs multiprocessing for that."""
    import multiprocessing

    if start_method not in multiprocessing.get_all_start_methods():
        return Availability(False, f"{sys.platform} has no {start_method!r}", "use 'spawn'")
    return check_interpreter(needed=start_method != "fork")


def check_interpreter(*, needed: bool) -> Availability:
    """Say whether an interpreter can be started, or what is lost without one where it is not needed."""
    missing, unknown = missing_mechanism(), missing_interpreter()
    if unknown and needed:
        return Availability(False, f"{unknown}, and ranks need an interpreter", CHOOSE)
    reasons = []
    if missing:
        reasons.append(f"through multiprocessing: {missing}")
    if unknown:
        reasons.append(
            f"{unknown}: processes that ranks start outlive this process if it is killed"
        )
    return Availability(True, "; ".join(reasons))


def count_processors() -> int:
    """Return how many CPUs this process may use, by its affinity and the quota of its cgroups."""
    usable = getattr(os, "sched_getaffinity", None)
    count = len(usable(0)) if usable is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _read_quota())))


def _read_quota() -> float:
    """Return the CPU quota of the cgroups (version 2 or 1) in CPUs; infinity if there is no limit."""
    folders = ["/sys/fs/cgroup"]
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next((line.rstrip()[3:] for line in file if line.startswith("0::")), "/")
        folders = [f"/sys/fs/cgroup{own[:end]}" for end, at in enumerate(own + "/") if at == "/"]
    except OSError:
        pass
    quotas = [float("inf")]
    for folder in folders:
        try:
            with open(f"{folder}/cpu.max", encoding="ascii") as file:
                quota, period = file.read().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or "max"
            pass
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", encoding="ascii") as file:
            quota = file.read()
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us", encoding="ascii") as file:
            period = file.read()
        if int(quota) > 0:
            quotas.append(int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return min(quotas)
