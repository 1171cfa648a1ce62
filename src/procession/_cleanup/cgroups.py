"""A cgroup v2 of each launch, where the caller asks for one and its own is delegated to it.

What sheds a launch's mark (a program that changes its user or its limits) stays in its cgroup, and one
write kills all of it.  It is not the default, for it is dear: the first move of a process into another
cgroup waits for the kernel, for milliseconds (docs/explanation/supervision.md).
"""

from __future__ import annotations

import os
import time

from procession._python.unpatched import sleep

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def create(mark: int) -> str:
    """Return the path of a new cgroup for a launch; an empty string unless PROCESSION_CGROUP=1.

    Raises:
        RuntimeError: it is asked for, and cannot be had.
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
            f"PROCESSION_CGROUP=1, but this process may not make a cgroup: {error}; run it where "
            "cgroup v2 is delegated (systemd-run --user --scope -p Delegate=yes), or unset the variable"
        ) from None
    return path


def locate(mark: int) -> str:
    """Return the path that a launch's cgroup has, under this process's own."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = next((line.rstrip()[4:] for line in file if line.startswith("0::/")), "")
    mounts = [mount for mount in _MOUNTS if os.path.exists(f"{mount}/{own}/cgroup.procs")]
    return os.path.join(mounts[0] if mounts else _MOUNTS[0], own, f"procession-{mark:016x}")


def join(path: str, pid: int) -> None:
    """Move a process (0: this one) into a cgroup, and so all that it starts from now on."""
    if path:
        try:
            with open(f"{path}/cgroup.procs", "w", encoding="utf-8") as file:
                file.write(str(pid))
        except ProcessLookupError:  # it has ended
            pass


def kill(path: str) -> None:
    """Kill all that is in a cgroup."""
    if path:
        try:
            with open(f"{path}/cgroup.kill", "w", encoding="utf-8") as file:
                file.write("1")
        except OSError:  # a kernel before 5.14; it is gone
            pass


def remove(path: str, patience: float = 1.0) -> None:
    """Remove a cgroup, and those that nested launches have left in it.

    One that somebody is in after ``patience`` seconds stays.
    """
    until = time.monotonic() + patience
    while path:
        try:
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:  # somebody is in it still
            if time.monotonic() >= until:
                return
            sleep(0.001)
        else:
            return
