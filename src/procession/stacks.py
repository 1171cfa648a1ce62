"""The Python stacks of a rank, which can be had while it is deadlocked or stuck in C.

A rank offers them: `faulthandler` answers a signal without the interpreter, and writes into a file in
memory that the launcher opens through /proc.  A rank that cannot answer is not harmed by being asked:
it is only asked if it catches the signal.  Ranks import this module: it imports nothing at its top but os.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = "procession-stacks"
_offered = -1  # the file of the rank that this process is, or was forked from


def signal_number() -> int:
    """Return the signal that asks for stacks: the last real-time signal but one, which nobody else uses."""
    # what `signal` is made of, without the enums that every rank would pay for
    last: int = __import__("_signal").SIGRTMAX
    return last - 1


def offer() -> None:
    """Have this rank write its stacks when it is asked to."""
    global _offered
    try:
        import faulthandler

        from procession.guard import lift

        old, fd = _offered, lift(os.memfd_create(_FILE, os.MFD_CLOEXEC))
        faulthandler.register(signal_number(), file=fd, all_threads=True)
        _offered = fd
        if old >= 0:
            os.close(old)
    except (AttributeError, ImportError, OSError, RuntimeError, ValueError):
        pass  # no such file or signal here: stacks are a help, and no reason to fail


class Inquiry:
    """One question for the stacks of a process of this machine."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._bit = 1 << (signal_number() - 1)
        self._fd = self._open()
        self._start = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        self._blocked = {task: mask for task, mask, _ in self._list_tasks()}
        self.can_answer: bool = self._fd >= 0 and self._catches()

    def take(self) -> str | None:
        """Return the stacks; None while the process has not written all of them."""
        if any(
            pending & self._bit or blocked & ~self._blocked.get(task, 0) & self._bit
            for task, blocked, pending in self._list_tasks()
        ):  # a handler runs with its own signal blocked
            return None
        size = os.fstat(self._fd).st_size - self._start  # 0: between the signal and its handler
        return os.pread(self._fd, size, self._start).decode("utf-8", "replace") if size else None

    def close(self) -> None:
        """Free the file.  May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        folder = f"/proc/{self._pid}/fd"
        try:
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                if os.readlink(path).startswith(f"/memfd:{_FILE}"):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended, or its files are not ours to see
            pass
        return -1

    def _catches(self) -> bool:
        return bool(_read_masks(f"/proc/{self._pid}/status").get("SigCgt", 0) & self._bit)

    def _list_tasks(self) -> Iterator[tuple[str, int, int]]:
        """Return each thread of the process: its number, what it blocks, and what waits for it."""
        folder = f"/proc/{self._pid}/task"
        try:
            tasks = os.listdir(folder)
        except OSError:  # it has ended
            return
        for task in tasks:
            masks = _read_masks(f"{folder}/{task}/status")
            pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
            yield task, masks.get("SigBlk", 0), pending


def _read_masks(path: str) -> dict[str, int]:
    """Return the signal masks of a status file (proc_pid_status(5)) by name."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = (line.partition(":") for line in file if line.startswith(("Sig", "Shd")))
            return {name: int(text, 16) for name, _, text in fields if name != "SigQ"}
    except (OSError, ValueError):  # it has ended
        return {}
