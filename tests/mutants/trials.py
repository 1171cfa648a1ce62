"""Tries mutants: each in a copy of the checkout, with the tests that should notice it.

The copy's package is mounted over the one that is installed, in a mount namespace: so it is what every rank
imports, whatever its flags.  A process id namespace ends what a mutant's tests leave running.
"""

from __future__ import annotations

import compileall
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from py_compile import PycInvalidationMode

from attrs import evolve
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkItem, WorkResult
from probe import COPY

import procession

ROOT = Path(__file__).parents[2]

FIRST = {
    "_launch": ["--tier", "1", "tests/launch", "tests/promises/test_launches.py"],
    "_rank": ["--tier", "1", "tests/rank", "tests/promises/test_launches.py"],
    "_registry": ["--tier", "1", "tests/registry"],
    "_supervise": ["--tier", "1", "tests/supervise", "tests/promises/test_contract.py"],
}
"""For each room the fast tests: they kill most mutants."""

SECOND = ["--tier", "1"]
"""What meets those that survive these: the whole first tier."""

THIRD = {
    "_launch": [
        "tests/launch",
        "tests/promises/test_calls.py",
        "tests/faults/test_start_faults.py",
    ],
    "_rank": ["tests/rank", "tests/promises/test_surroundings.py", "tests/faults/test_crashes.py"],
    "_registry": ["tests/registry", "tests/cli", "tests/promises/test_portable.py"],
    "_supervise": [
        "tests/supervise",
        "tests/promises/test_contract.py",
        "tests/promises/test_causes.py",
    ],
}
"""For each room its tests of tier two, for those that survive the first tier too."""

BY_MODULE = {
    "_launch/checks": ["tests/launch/test_checks.py", "tests/launch/test_launch_at_import.py"],
    "_launch/death_pipes": [
        "tests/promises/test_rights.py",
        "tests/promises/test_closed_by_number.py",
    ],
    "_launch/environment": ["tests/promises/test_surroundings.py"],
    "_rank/bootstrap": ["tests/promises/test_rights.py", "tests/launch/test_buffers.py"],
    "_rank/coverage": ["tests/promises/test_measuring.py"],
    "_rank/parent_death": [
        "tests/faults/test_caller_events.py",
        "tests/faults/test_without_proc.py",
    ],
    "_rank/report": ["tests/rank/test_report.py"],
    "_rank/small_pickle": ["tests/rank/test_report.py"],
    "_rank/stacks": ["tests/supervise/test_hangs.py"],
    "_supervise/caller_processes": ["tests/faults/test_strangers.py"],
    "_supervise/oom": ["tests/faults/test_kernel_faults.py"],
    "_supervise/rank_state": ["tests/supervise/test_rank_state.py"],
    "_supervise/stopping": ["tests/supervise/test_stop_plan.py"],
    "_supervise/supervisor": ["tests/faults/test_caller_events.py"],
    "_supervise/waiter": ["tests/promises/test_sandboxes.py", "tests/promises/test_hardening.py"],
}
"""Files of tier two that concern a module, for those that survive the fast tests."""

_APART = """cd "$0" || exit 1
mount --bind src/procession "$1" && mount -t tmpfs tmpfs /dev/shm || exit 1
shift
"$@"
exit $?"""
"""A shell stays the first process of the namespace: it reaps orphans, and pytest has the usual signals."""

_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "setsid")
"""The session is new, because the process group of one from outside has the number 0 in the namespace."""

_IGNORED = shutil.ignore_patterns(".git", ".venv", ".nox", ".*_cache", "__pycache__", "_build")


class Limits:
    """How long tests may take; measured without a mutant when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, float] = {}

    def find(self, copy: Copy, tests: list[str]) -> float:
        """Return the seconds that some tests may take."""
        key = " ".join(tests)
        with self._lock:
            if key not in self._found:
                self._found[key] = 60 + 3 * copy.measure(tests)
            return self._found[key]


class Copy:
    """A copy of the checkout, for one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=_IGNORED, symlinks=True)
        (folder / "src/procession" / COPY).touch()
        # checked by content: a mutant may be as old and as long as the last one
        mode = PycInvalidationMode.CHECKED_HASH
        for name in ("src", "tests"):
            compileall.compile_dir(folder / name, quiet=2, invalidation_mode=mode)

    def find_modules(self, names: list[str]) -> list[Path]:
        """Return the modules of the rooms and modules of some names (`_rank`, `_rank/report`)."""
        package = self.folder / "src/procession"
        paths = [package / name for name in names or FIRST]
        modules = [path.with_suffix(".py") for path in paths if not path.is_dir()]
        modules += [module for path in paths if path.is_dir() for module in path.glob("*.py")]
        return sorted(modules)

    def make_command(self, *arguments: str) -> str:
        """Return a command that runs Python in the copy."""
        installed = os.path.dirname(procession.__file__)
        shell = ("sh", "-c", _APART, str(self.folder), installed)
        return shlex.join((*_NAMESPACES, *shell, sys.executable, *arguments))

    def make_test_command(self, tests: list[str]) -> str:
        """Return a command that runs some tests until one fails."""
        temporary = f"--basetemp={self.folder}.tmp"
        options = ("-x", "-q", "--tb=short", "-p", "no:cacheprovider", temporary)
        return self.make_command("-m", "pytest", *options, *tests)

    def check(self) -> None:
        """Raise an exception if a process, or a rank, imports another package than the copy's."""
        subprocess.run(shlex.split(self.make_command("tests/mutants/probe.py")), check=True)

    def measure(self, tests: list[str]) -> float:
        """Return how long some tests take without a mutant; raise an exception if they fail."""
        begun = time.monotonic()
        outcome, output = run_tests(self.make_test_command(tests), 3600)
        if outcome is not TestOutcome.SURVIVED:
            raise RuntimeError(f"without a mutant these tests fail: {tests}\n{output}")
        return time.monotonic() - begun

    def try_mutant(self, item: WorkItem, limits: Limits) -> WorkResult:
        """Run the tests for a mutant, the fast ones first, until one of them fails."""
        [mutation] = item.mutations
        relative = mutation.module_path.relative_to(mutation.module_path.parents[3])
        here = evolve(mutation, module_path=self.folder / relative)
        for tests in list_stages(mutation):
            limit = limits.find(self, tests)
            result = mutate_and_test([here], self.make_test_command(tests), limit)
            if result.is_killed:
                break
        return result


def list_stages(mutation: MutationSpec) -> list[list[str]]:
    """Return the tests for a mutant, the fast ones first."""
    room, module = mutation.module_path.parent.name, mutation.module_path.stem
    own = BY_MODULE.get(f"{room}/{module}")
    further = [["--tier", "2", *own]] if own else []
    return [FIRST[room], *further, SECOND, ["--tier", "2", *THIRD[room]]]
