"""What a process may do and how it is set up, and how a caller changes that: for programs of the tests.

Ranks call `facts` and `get_parent`, so processes without root's rights import this module, too.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

_CAP_SYS_ADMIN = 21
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_NOBODY = 65534


def facts(rank: int) -> dict[str, Any]:
    """Return the rights and settings of this process."""
    return {
        "ids": read_status("Uid", "Gid", "Groups", "CapEff", "CapPrm", "NoNewPrivs"),
        "umask": read_umask(),
        "limits": [resource.getrlimit(number) for number in range(16) if number != 10],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "policy": os.sched_getscheduler(0),
        "folder": os.getcwd(),
    }


def get_parent(rank: int) -> int:
    return os.getppid()


def read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def read_status(*names: str) -> list[str]:
    """Return fields of /proc/self/status."""
    with open("/proc/self/status") as file:
        fields = dict(line.rstrip().partition(":")[::2] for line in file)
    return [fields[name] for name in names]


def change(what: str, folder: str = "/") -> None:
    """Change a setting of this process, or drop rights of it, by the name of a branch below."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    match what:
        case "umask":
            os.umask(0o077)
        case "soft limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        case "hard limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
        case "no core":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        case "nice":
            os.nice(3)
        case "cpus":
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        case "policy":
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        case "folder":
            os.chdir("/")
        case "no new privileges":
            forbid_new_privileges()
        case _:
            _drop(what, folder)


def _drop(what: str, folder: str) -> None:
    match what:
        case "groups":
            os.setgroups([12345])
        case "gid":
            os.setgid(_NOBODY)
        case "effective gid":
            os.setegid(_NOBODY)
        case "capability":
            _drop_capability(_CAP_SYS_ADMIN)
        case "bounding set":
            assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0) == 0
        case "user":
            os.chdir(folder)
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        case _:
            raise ValueError(what)


def forbid_new_privileges() -> None:
    assert ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def _drop_capability(number: int) -> None:
    """Remove a capability from the effective, permitted and inheritable sets (capset(2))."""
    sets = [int(text, 16) for text in read_status("CapEff", "CapPrm", "CapInh")]
    kept = [one & ~(1 << number) for one in sets]
    head = (ctypes.c_uint * 2)(_CAPABILITY_VERSION_3, 0)
    words = [one >> shift & 0xFFFFFFFF for shift in (0, 32) for one in kept]
    assert ctypes.CDLL(None).capset(head, (ctypes.c_uint * 6)(*words)) == 0
