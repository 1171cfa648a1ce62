"""Gives each launch a cgroup v2, if the caller asks for one and its own cgroup is delegated to it.

A process that drops a launch's mark (a program that changes its user or its limits) stays in the launch's
cgroup, and one write kills all of it.  Cgroups are not the default because they are slow: the first move of a
process into another cgroup waits for the kernel, for milliseconds (docs/explanation/supervision.md).
"""

from __future__ import annotations

import os

from procession._python.clock import monotonic
from procession._python.unpatched import sleep

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def create(mark: int) -> str:
    """Return the path of a new cgroup for a launch; an empty string unless PROCESSION_CGROUP=1.

    Raises:
        RuntimeError: PROCESSION_CGROUP=1, and the cgroup cannot be created.
        ValueError: PROCESSION_CGROUP is neither 0 nor 1.
    """
    choice = os.environ.get("PROCESSION_CGROUP", "0")
    if choice not in ("0", "1"):
        raise ValueError(f"PROCESSION_CGROUP must be 0 or 1, not {choice!r}")
    if choice == "0":
        return ""
    path = locate(mark)
    try:
        os.mkdir(path)
    except OSError as error:
        raise RuntimeError(
            f"PROCESSION_CGROUP=1, but this process cannot create a cgroup: {error}; run it where "
            "cgroup v2 is delegated (systemd-run --user --scope -p Delegate=yes), or unset the variable"
        ) from None
    return path


def locate(mark: int) -> str:
    """Return the path of a launch's cgroup, under this process's own."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = next((line.rstrip()[4:] for line in file if line.startswith("0::/")), "")
    mounts = [mount for mount in _MOUNTS if os.path.exists(f"{mount}/{own}/cgroup.procs")]
    return os.path.join(mounts[0] if mounts else _MOUNTS[0], own, f"procession-{mark:016x}")


def join(path: str, pid: int) -> None:
    """Move a process (0: this one) into a cgroup, and with it all that it starts from now on."""
    if path:
        try:
            with open(f"{path}/cgroup.procs", "w", encoding="utf-8") as file:
                file.write(str(pid))
        except ProcessLookupError:  # it has ended
            pass


def kill(path: str) -> None:
    """Kill all processes in a cgroup."""
    if path:
        try:
            with open(f"{path}/cgroup.kill", "w", encoding="utf-8") as file:
                file.write("1")
        except OSError:  # a kernel before 5.14; it is gone
            pass


def remove(path: str, patience: float = 1.0) -> None:
    """Remove a cgroup, and those that nested launches have left in it.

    A cgroup that still has processes after ``patience`` seconds stays.
    """
    until = monotonic() + patience
    while path:
        try:
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:  # a process is still in it
            if monotonic() >= until:
                return
            sleep(0.001)
        else:
            return
