"""Forbids system calls to this process and its children, as the sandbox of a container does."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

NUMBERS: dict[str, int] = {
    "x86_64": {"memfd_create": 319, "pidfd_open": 434},
    "aarch64": {"memfd_create": 279, "pidfd_open": 434},
}.get(platform.machine() if sys.platform == "linux" else "", {})
"""The numbers of system calls by name; empty where they are not known."""

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2


def forbid(name: str, code: int) -> None:
    """Make a system call fail with this error from now on (seccomp(2))."""
    rules = [
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, NUMBERS[name]),  # if it is another, skip a rule
        (6, 0, 0, 0x50000 | code),  # SECCOMP_RET_ERRNO
        (6, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    header = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0
