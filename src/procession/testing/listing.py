"""Tests how a plugin is found: by its entry point, without an import, and with few imports once loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from procession import BackendInfo, get_backend, list_backends
from procession.testing.subject import Subject

_IMPORTS = """
import importlib, json, sys
target, = sys.argv[1:]
from procession import get_backend, list_backends
list_backends()
before = set(sys.modules)
get_backend(target).availability()
print(json.dumps({
    name: getattr(sys.modules[name], "__file__", None)
    for name in set(sys.modules) - before
}))
"""


class Listing:
    """Tests of what an installed backend costs a user who does not use it."""

    light_imports: frozenset[str] = frozenset()
    """Third-party top-level packages that the plugin may import before it starts ranks."""

    def test_it_is_found_by_its_name(self, subject: Subject) -> None:
        """The name alone finds the backend under test."""
        info = find_entry(subject)
        assert info.status in ("ok", "not loaded", "unavailable"), f"{info.status}: {info.reason}"
        assert get_backend(f"{info.distribution}:{info.name}").name == subject.backend.name

    def test_listing_does_not_import_it(self, subject: Subject) -> None:
        """`procession backends` reads metadata, and does not import the plugin."""
        info = find_entry(subject)
        if info.origin == "built-in":
            pytest.skip("built in: the core imports it")
        module = info.target.partition(":")[0]
        code = (
            "import sys; from procession.cli import main; main(['backends', '--json']); "
            f"sys.exit(sys.modules.get({module!r}) is not None)"
        )
        assert run_python("-c", code).returncode == 0, f"listing imports {module}"

    def test_it_is_light_until_it_starts(self, subject: Subject) -> None:
        """Creating the backend and asking for its availability imports no engine and no test framework."""
        info = find_entry(subject)
        done = run_python("-c", _IMPORTS, f"{info.distribution}:{info.name}")
        assert done.returncode == 0, done.stderr
        heavy = find_heavy(json.loads(done.stdout), info.target, self.light_imports)
        assert not heavy, f"imported before anything is started: {sorted(heavy)}"


def find_entries(name: str) -> list[BackendInfo]:
    """Return what the registry knows of the installed backends of this name."""
    return [
        info
        for info in list_backends()
        if info.name == name and info.distribution and info.status != "shadowed"
    ]


def find_entry(subject: Subject) -> BackendInfo:
    """Return what the registry knows of the backend; skip the test if no entry point names it."""
    entries = find_entries(subject.backend.name)
    if not entries:
        pytest.skip(f"no distribution here has the entry point {subject.backend.name!r}")
    return entries[0]


def find_heavy(modules: dict[str, Any], target: str, allowed: frozenset[str]) -> set[str]:
    """Return the imported packages that belong neither to Python, nor to procession, nor to the plugin."""
    own = {"procession", target.partition(":")[0].partition(".")[0], *allowed}
    tops = {name.partition(".")[0] for name, file in modules.items() if file is not None}
    return {name for name in tops - own if name not in sys.stdlib_module_names}


def run_python(
    *arguments: str, path: Iterable[str] = sys.path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python interpreter with ``path`` as PYTHONPATH, and return how it ended."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
