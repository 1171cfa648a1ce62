"""Asks a process of this machine for its Python stacks, in the way that cannot harm it.

A rank that can run Python answers from Python, with its GIL held.  Only one whose main thread is seen to
stay in C is asked from C, where `faulthandler` reads frames as they stand; and for its other threads only
if none of them has run in between: to read frames that change can crash the process.  A loop of calls
that is asked from C dies, on one machine, of every 690th question on Python 3.11.7 and every 14th on 3.13.0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from procession._linux.procstat import read_stat
from procession._python import unpatched
from procession._python.fd_numbers import above_streams
from procession._rank import stacks

PATIENCE = 1.0
"""Seconds that ranks have to answer."""

_STUCK = 0.1  # seconds that a main thread sleeps on without running a handler written in Python
_STUCK_RUNNING = 0.05  # seconds of processor time that it spends so
_LARGEST = (
    1 << 24
)  # bytes of an answer: `faulthandler` writes of at most 100 threads, 100 frames each
_OTHERS = "(other threads run: their stacks could not be read)"
_FIELDS = {"SigPnd", "ShdPnd", "SigBlk", "SigCgt"}


class Inquiry:
    """One question for the stacks of the process ``pid``; ``send`` sends it a signal."""

    def __init__(self, pid: int, send: Callable[[int], None]) -> None:
        self._pid = pid
        self._send = send
        self._numbers = stacks.signal_numbers()
        self._fd = self._open()
        self._start = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        self._before = self._look()
        self._asked = 0  # the signal that was sent last
        self._time = self._used = 0.0

    def ask(self) -> bool:
        """Ask, if the process can answer; return whether it can."""
        wanted = _bits(*self._numbers)
        main = self._before.get(self._pid)
        if self._fd < 0 or main is None or main.caught & wanted != wanted:
            return False
        self._time, self._used = time.monotonic(), _processor_time(self._pid)
        self._ask(self._numbers[0])
        return True

    def take(self) -> str | None:
        """Return the stacks; None while the process has not written all of them."""
        size = max(os.fstat(self._fd).st_size - self._start, 0)
        if size > _LARGEST:
            return f"(the rank's file of stacks has grown by {size} bytes)"
        told = os.pread(self._fd, size, self._start)
        if told.endswith(stacks.END):
            return _decode(told[told.rfind(stacks.BEGIN) + 1 : -1])
        if self._asked == self._numbers[0]:
            self._ask_c_if_stuck()
            return None
        told = told.partition(stacks.BEGIN)[0]  # Python may have come to it meanwhile
        if not told or self._is_answering():
            return None
        one = self._asked == self._numbers[2]
        return _decode(told) + (_OTHERS if one else "")

    def close(self) -> None:
        """Free the file.  May be called twice."""
        if self._fd >= 0:
            unpatched.close(self._fd)
            self._fd = -1

    def _ask(self, number: int) -> None:
        self._asked = number
        self._send(number)

    def _ask_c_if_stuck(self) -> None:
        if time.monotonic() < self._time + _STUCK:
            return
        now = self._look()
        main = now.get(self._pid)
        if main is None or main.pending & _bits(self._asked):
            return  # it has ended, or has not come to itself since (stopped, or no processor)
        if main.sleeps or _processor_time(self._pid) - self._used >= _STUCK_RUNNING:
            others = {task for task in now if task != self._pid}
            slept = all(now[task].sleeps and now[task] == self._before.get(task) for task in others)
            self._before = now
            self._ask(self._numbers[1 if slept else 2])

    def _is_answering(self) -> bool:
        """Whether the signal waits, or its handler runs, which is with the signal blocked."""
        bit = _bits(self._asked)
        return any(
            task.pending & bit or task.blocked & ~_blocked(self._before.get(number)) & bit
            for number, task in self._look().items()
        )

    def _open(self) -> int:
        folder = f"/proc/{self._pid}/fd"
        try:
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                if os.readlink(path).startswith(f"/memfd:{stacks.FILE}"):
                    return above_streams(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError:  # it has ended, or its files are not ours to see
            pass
        return -1

    def _look(self) -> dict[int, _Task]:
        """Return the process's threads, by number; none where it has ended."""
        folder = f"/proc/{self._pid}/task"
        try:
            tasks = os.listdir(folder)
        except OSError:
            return {}
        return {int(task): seen for task in tasks if (seen := _look_at(f"{folder}/{task}/status"))}


class _Task(NamedTuple):
    """A thread as the kernel sees it (proc_pid_status(5))."""

    sleeps: bool
    switches: str  # how often it began and ceased to run
    caught: int
    blocked: int
    pending: int


def _look_at(path: str) -> _Task | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        masks = {name: int(fields.get(name, "0"), 16) for name in _FIELDS}
    except (OSError, ValueError):  # it has ended
        return None
    return _Task(
        fields.get("State", "?")[0] in "SDI",
        fields.get("voluntary_ctxt_switches", "") + fields.get("nonvoluntary_ctxt_switches", ""),
        masks["SigCgt"],
        masks["SigBlk"],
        masks["SigPnd"] | masks["ShdPnd"],
    )


def _processor_time(pid: int) -> float:
    """Return the seconds that a process's main thread has run (proc_pid_stat(5))."""
    fields = read_stat(f"{pid}/task/{pid}")
    if not fields:  # it has ended
        return 0.0
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _bits(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


def _blocked(task: _Task | None) -> int:
    return task.blocked if task is not None else 0


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")
