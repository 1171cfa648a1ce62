"""Run one fault under one peer in a fresh caller, note what it reports and leaves, and end all of it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import PEERS, why_not
from verdicts import HANG, LOST, NOT_APPLICABLE, Run, judge

from procession._cleanup import marks
from procession.testing.scratch import Stage, state_of

HERE = Path(__file__).parent
PATIENCE = 1.0
"""Seconds that a process may stay after the call has ended."""

stopping = threading.Event()
"""Once set, runs stop waiting; each still ends what it started."""

_STARTING = 120.0  # seconds for the caller's own imports, which are not measured
_TOKEN = "SIDE_BY_SIDE"
_LOCKS = 10  # RLIMIT_LOCKS, see procession._cleanup.marks
_MEMORY = Path("/dev/shm")
_HELPERS = (
    "resource_tracker",
    "forkserver",
    "procession._forkserver.server",
    "procession._cleanup.reaper",
)
"""Helpers that a caller may keep for as long as it lives: each is its child and ends with it."""


class Tree:
    """A caller, and everything that it and its ranks have started."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.token = secrets.token_hex(8)
        self.mark = marks.mark_of(self.token)
        self.stage = Stage(str(folder / "stage"), 0)
        temporary = folder / "tmp"
        for path in (folder, self.stage.folder, temporary):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)  # one rank becomes the user nobody
        modules = os.pathsep.join((str(HERE), str(HERE.parent)))
        with open(folder / "output", "wb") as output:
            self.process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "PYTHONPATH": modules,
                    "TMPDIR": str(temporary),
                    _TOKEN: self.token,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        marks.put(self.process.pid, self.mark)

    def has(self, cue: str) -> bool:
        """Return whether the caller has given a cue."""
        return (self.stage.folder / cue).exists()

    def has_ended(self) -> bool:
        """Return whether the caller has exited."""
        return self.process.poll() is not None

    def find(self) -> set[int]:
        """Return the living processes of the tree, without the caller."""
        noted = {pid for pid in self.stage.noted() if self._is_as_old_as_its_note(pid)}
        everybody = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        ours = noted | {pid for pid in everybody if self._has(pid)}
        return {pid for pid in ours - {self.process.pid} if state_of(pid) not in "XZ"}

    def find_left(self) -> list[str]:
        """Describe the processes that should have ended by now, without helpers."""
        return [_describe(pid) for pid in sorted(self.find()) if not self._is_helper(pid)]

    def end(self) -> None:
        """End all processes, those that clean up after others last."""
        trackers = {pid for pid in self.find() if "resource_tracker" in _describe(pid)}
        _kill({self.process.pid, *self.find()} - trackers)
        self.process.wait()
        _wait_until(lambda: not self.find(), PATIENCE)
        while found := self.find():
            _kill(found)
            time.sleep(0.01)
        marks.end(self.mark)

    def _has(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            return (
                f"{_TOKEN}={self.token}".encode() in environment
                or os.getsid(pid) == self.process.pid
                or _read_mark(pid) == self.mark
            )
        except OSError:  # it has ended, or belongs to another user
            return False

    def _is_as_old_as_its_note(self, pid: int) -> bool:
        """Return whether a pid still belongs to the process that was noted."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            noted = (self.stage.folder / f"pid {pid}").stat().st_mtime
        except OSError:
            return False
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return age > time.time() - noted - 1

    def _is_helper(self, pid: int) -> bool:
        is_child = _read_parent(pid) == self.process.pid
        return is_child and any(name in _describe(pid) for name in _HELPERS)


@dataclass(frozen=True)
class Limits:
    """Seconds: ``limit`` for the call, and again for the caller's exit; healthy ranks work for ``busy``."""

    limit: float
    busy: float


def play_one(peer: str, case: str, limits: Limits) -> Run:
    """Run a fault under a peer, and judge the result."""
    run = Run(peer, case, said=why_not(peer, case))
    if not PEERS[peer].is_installed():
        run.said = f"not installed: pip install {PEERS[peer].package}"
    if run.said:
        run.verdict = NOT_APPLICABLE
        return run
    memory = _list_memory()
    with tempfile.TemporaryDirectory(prefix="side-by-side-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = [sys.executable, str(HERE / "peers.py"), peer, case, f"{folder}/stage"]
        tree = Tree([*command, str(limits.busy)], folder)
        try:
            run.verdict = _observe(run, tree, limits.limit)
            if run.verdict != HANG:
                run.files = sorted(os.listdir(folder / "tmp"))
                _wait_until(lambda: not _find_left_memory(memory), PATIENCE)  # or another run's
                run.shared_memory = _find_left_memory(memory)
        finally:
            tree.end()
        if not run.said:
            run.said = (folder / "output").read_bytes()[-2000:].decode(errors="replace")
    return run


def _observe(run: Run, tree: Tree, limit: float) -> str:
    """Watch a caller until it has exited, and return the verdict."""
    _wait_until(lambda: tree.has("called") or tree.has_ended(), _STARTING)
    if not _wait_until(lambda: tree.has("report") or tree.has_ended(), limit):
        return HANG
    if not tree.has("report"):
        run.said = f"the caller itself ended with {tree.process.returncode}"
        return LOST
    report: dict[str, Any] = json.loads((tree.stage.folder / "report").read_text())
    run.seconds, run.known, run.said = report["seconds"], report["known"], report["said"]
    time.sleep(PATIENCE)
    run.left = tree.find_left()
    tree.stage.tell("leave")
    begun = time.monotonic()
    if not _wait_until(tree.has_ended, limit):
        run.said += "\n(the caller does not exit)"
        return HANG
    run.exit_seconds = time.monotonic() - begun
    _wait_until(lambda: not tree.find(), PATIENCE)
    run.left = sorted({*run.left, *tree.find_left()})
    return judge(run, report["about_error"])


def _wait_until(condition: Callable[[], object], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until or stopping.is_set():
            return False
        time.sleep(0.01)
    return True


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _read_mark(pid: int) -> int:
    import resource

    return resource.prlimit(pid, _LOCKS)[0]


def _read_parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        command = b""
    return f"{pid} {state_of(pid)} {command.decode(errors='replace')[:1000]}"


def _list_memory() -> set[str]:
    """Return the names of all shared memory."""
    return set(os.listdir(_MEMORY)) if _MEMORY.is_dir() else set()


def _find_left_memory(before: set[str]) -> list[str]:
    """Return the shared memory that is new and that no living process has mapped.

    A semaphore is mapped under its earlier name (sem_open(3) of glibc), so inodes are compared.
    """
    new = _list_memory() - before
    maps = b"".join(map(_read, Path("/proc").glob("[0-9]*/maps")))  # later than the names
    mapped = set(map(int, re.findall(rb" (\d+) +/dev/shm/", maps)))
    return sorted(name for name in new if _read_inode(_MEMORY / name) not in mapped | {0})


def _read_inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:  # gone meanwhile
        return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""
