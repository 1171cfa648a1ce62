"""Reads what the kernel reports of a process (proc_pid_stat(5)), while there is one of that number."""

from __future__ import annotations

_EXITING = 0x4  # PF_EXITING of the kernel's include/linux/sched.h


def read_stat(pid: int | str | None) -> list[str]:
    """Return the fields of a process or (``N/task/N``) thread, from the state on; none if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state_of(pid: int | None) -> str:
    """Return the state letter of a process; ``?`` if unknown."""
    return (read_stat(pid) or "?")[0]


def is_ending(pid: int | None) -> bool:
    """Return whether a process has visibly begun to end."""
    fields = read_stat(pid)
    return bool(fields) and (fields[0] in "ZX" or bool(int(fields[6]) & _EXITING))


def read_birth(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; ``?`` if unknown."""
    fields = read_stat(pid)
    return fields[19] if fields else "?"


def read_mask(pid: int | None, name: str) -> int:
    """Return a signal mask of a process (``SigCgt``, ``SigIgn``: proc_pid_status(5)); 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1], 16)
    except OSError:
        pass
    return 0
