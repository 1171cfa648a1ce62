"""Requests the Python stacks of a process on this machine, in the safest way that still gets an answer.

The first request has a handler in Python, which answers with the GIL held.  If the main thread stays in C, a
second request has a handler in C: `faulthandler` reads the frames as they are.  Reading frames while they
change can crash the process, so that request covers other threads only if none of them has run meanwhile.
How likely a crash is: on one machine, a loop of calls that is asked from C dies at every 690th request on
Python 3.11.7, and at every 14th on 3.13.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from procession._linux.procstat import read_stat
from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.fd_numbers import above_streams
from procession._rank import stacks

PATIENCE = 1.0
"""Seconds that a rank has to answer."""

# a main thread that has not run a handler written in Python for so long is in C
_STUCK = 0.1  # seconds, while it sleeps
_STUCK_RUNNING = 0.05  # seconds of processor time, while it runs
_LARGEST = 1 << 24  # bytes of an answer: `faulthandler` writes at most 100 threads of 100 frames
_OTHERS = "(other threads run: their stacks could not be read)"
_FIELDS = {"SigPnd", "ShdPnd", "SigBlk", "SigCgt"}


class StackRequest:
    """One request for the stacks of the process ``pid``; ``send`` sends a signal to it."""

    def __init__(self, pid: int, send: Callable[[int], None]) -> None:
        self._pid = pid
        self._send = send
        self._numbers = stacks.signal_numbers()
        self._fd = self._open()
        self._start = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        self._before = self._look()
        self._asked = 0  # the signal sent last
        self._time = self._used = 0.0

    def ask(self) -> bool:
        """Send the request, if the process can answer; return whether it can."""
        wanted = _bits(*self._numbers)
        main = self._before.get(self._pid)
        if self._fd < 0 or main is None or main.caught & wanted != wanted:
            return False
        self._time, self._used = monotonic(), _processor_time(self._pid)
        self._ask(self._numbers[0])
        return True

    def take(self) -> str | None:
        """Return the stacks; None until the process has written all of them."""
        size = max(os.fstat(self._fd).st_size - self._start, 0)
        if size > _LARGEST:
            return f"(the rank's file of stacks has grown by {size} bytes)"
        data = os.pread(self._fd, size, self._start)
        if data.endswith(stacks.END):
            return _decode(data[data.rfind(stacks.BEGIN) + 1 : -1])
        if self._asked == self._numbers[0]:
            self._ask_c_if_stuck()
            return None
        data = data.partition(stacks.BEGIN)[0]  # the handler in Python may have begun, too
        if not data or self._is_answering():
            return None
        main_only = self._asked == self._numbers[2]
        return _decode(data) + (_OTHERS if main_only else "")

    def close(self) -> None:
        """Free the file.  May be called twice."""
        if self._fd >= 0:
            unpatched.close(self._fd)
            self._fd = -1

    def _ask(self, number: int) -> None:
        self._asked = number
        self._send(number)

    def _ask_c_if_stuck(self) -> None:
        if monotonic() < self._time + _STUCK:
            return
        now = self._look()
        main = now.get(self._pid)
        if main is None or main.pending & _bits(self._asked):
            return  # it has ended, or has not run since (it is stopped, or waits for a processor)
        if main.sleeps or _processor_time(self._pid) - self._used >= _STUCK_RUNNING:
            others = {task for task in now if task != self._pid}
            slept = all(now[task].sleeps and now[task] == self._before.get(task) for task in others)
            self._before = now
            self._ask(self._numbers[1 if slept else 2])

    def _is_answering(self) -> bool:
        """Whether the signal is pending, or its handler runs, during which the signal is blocked."""
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
        except OSError:  # it has ended, or we may not read its files
            pass
        return -1

    def _look(self) -> dict[int, _Task]:
        """Return the process's threads, by number; none if it has ended."""
        folder = f"/proc/{self._pid}/task"
        try:
            tasks = os.listdir(folder)
        except OSError:
            return {}
        return {int(task): seen for task in tasks if (seen := _look_at(f"{folder}/{task}/status"))}


class _Task(NamedTuple):
    """The state of a thread (proc_pid_status(5))."""

    sleeps: bool
    switches: str  # counts of context switches: unchanged if it has not run
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
