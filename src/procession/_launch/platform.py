"""Tells which mechanisms this platform has; without them, the built-in backends use multiprocessing's."""

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
    """Say what is missing for ranks started by procession itself; empty where nothing is."""
    if os.environ.get("PROCESSION_PORTABLE") == "1":
        return "PROCESSION_PORTABLE=1 asks for multiprocessing's processes"
    if sys.platform != "linux":
        return f"{sys.platform} has no pidfds"
    if getattr(sys, "frozen", False):
        return "the application is frozen: its executable is not a Python interpreter"
    if not pidfds_work():
        return "the kernel (before 5.3) or a sandbox has no pidfds"
    return ""


def get_capabilities(start_method: str) -> Capabilities:
    """Say what a built-in start method can do here."""
    whole = not missing_mechanism()
    by_reference = start_method == "fork"
    return Capabilities(
        by_reference=by_reference, descendants=whole, stacks=whole, context=start_method
    )


def get_availability(start_method: str) -> Availability:
    """Say whether a built-in start method can be used here, and if only by way of multiprocessing."""
    import multiprocessing

    if start_method not in multiprocessing.get_all_start_methods():
        return Availability(False, f"{sys.platform} cannot {start_method}", "use 'spawn'")
    return tell_interpreter(needed=start_method != "fork")


def tell_interpreter(*, needed: bool) -> Availability:
    """Tell whether there is an interpreter to start, if it is needed, and what is missing without one."""
    missing, unknown = missing_mechanism(), missing_interpreter()
    if unknown and needed:
        return Availability(False, f"{unknown}, and it starts interpreters", CHOOSE)
    reasons = []
    if missing:
        reasons.append(f"by way of multiprocessing: {missing}")
    if unknown:
        reasons.append(f"{unknown}: what ranks start outlives this process if it is killed")
    return Availability(True, "; ".join(reasons))


def count_processors() -> int:
    """Return how many processors this process may use: by affinity, and by its cgroups' quota."""
    usable = getattr(os, "sched_getaffinity", None)
    count = len(usable(0)) if usable is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _read_quota())))


def _read_quota() -> float:
    """Return how many processors' time the cgroups allow (version 2 or 1); infinity for no limit."""
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
