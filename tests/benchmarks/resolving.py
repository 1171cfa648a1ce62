"""Measure how long a name takes to resolve, in fresh interpreters that see a given number of distributions.

An interpreter finds its distributions in one folder, laid out as by an installer: procession and its
requirements, copied from this environment and compiled; a first-party and a third-party plugin; and others up
to the number, half of them with entry points of other groups.  It runs with ``-S``, so that its path lacks
the packages of this environment: it has the folder, the empty working directory and the standard library.
The result contains the number of distributions that the interpreter counted.
"""

from __future__ import annotations

import compileall
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rows import GROUP, Answer

if TYPE_CHECKING:
    from contestants import Contestant

CHILD = """
import site, time  # what an interpreter without -S has imported too
if {imported}: import procession._registry.listing

def resolve():
    begun = time.perf_counter()
    exec(code, {{}})
    return time.perf_counter() - begun

code = compile({code!r}, "resolve", "exec")
first = resolve()
import importlib.metadata, json, procession._registry.entry_points
procession._registry.entry_points.refresh()  # importlib_metadata forgets as well
getattr(importlib.metadata.FastPath.__new__, "cache_clear", int)()  # not so importlib.metadata
print(json.dumps([first, resolve(), len(list(importlib.metadata.distributions()))]))
"""

PLUGIN = """
from procession import Availability, Capabilities

class Backend:
    name = "{method}"
    protocol_version = 1
    capabilities = Capabilities()

    def availability(self):
        return Availability(True)

    def start(self, launch):
        raise NotImplementedError
"""

PLUGINS = {"procession-xla": "xla", "third-party": "third"}
"""The start method of each plugin; procession reserves the first name for its distribution."""

_OTHER = "[console_scripts]\n{name} = {name}:main\n\n[pytest11]\n{name} = {name}.plugin\n"
_FIELDS = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
_REST = "Classifier: Programming Language :: Python\n" * 30 + "\n" + "A long description.\n" * 100


def resolve(contestant: Contestant, code: str, distributions: int) -> Answer:
    """Run code that resolves a name with procession imported, a second time, and with nothing imported.

    All other imports are timed.  The second time all modules are imported, and the registry has forgotten
    what it had read.
    """
    folder = install(distributions)
    seconds, again, seen = run(folder, code, imported=True)
    from_nothing, _, _ = run(folder, code, imported=False)
    return {
        "seconds": seconds,
        "seconds again": again,
        "seconds from nothing": from_nothing,
        "distributions": seen,
    }


def run(folder: Path, code: str, *, imported: bool) -> list[float]:
    """Return two times of code in a new interpreter, and the number of distributions that it saw."""
    variables = {name: os.environ[name] for name in os.environ if "PROCESSION" not in name}
    done = subprocess.run(
        [sys.executable, "-S", "-c", CHILD.format(code=code, imported=imported)],
        env={**variables, "PYTHONPATH": str(folder)},
        cwd=folder.with_name("empty"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(done.stderr)
    numbers: list[float] = json.loads(done.stdout)
    return numbers


@cache
def install(count: int) -> Path:
    """Make a folder with that many distributions, including those that are needed."""
    folder = Path(tempfile.mkdtemp()) / "site"
    folder.with_name("empty").mkdir()
    needed = sorted(find_requirements("procession"))
    for name in needed:
        copy_module(name.replace("-", "_"), folder)
        write_distribution(folder, name, metadata.distribution(name).read_text("entry_points.txt"))
    for name, method in PLUGINS.items():
        module = name.replace("-", "_")
        write_distribution(folder, name, f"[{GROUP}]\n{method} = {module}:Backend\n")
        folder.joinpath(f"{module}.py").write_text(PLUGIN.format(method=method))
    for number in range(count - len(needed) - len(PLUGINS)):
        name = f"other{number}"
        write_distribution(folder, name, _OTHER.format(name=name) if number % 2 else None)
    compileall.compile_dir(folder, quiet=1)
    return folder


def find_requirements(name: str) -> set[str]:
    """Return the names of a distribution and of its requirements here, and of theirs in turn."""
    found = {name}
    for line in metadata.requires(name) or []:
        other = re.split(r"[^A-Za-z0-9._-]", line)[0]
        if "extra ==" not in line and is_installed(other):
            found |= find_requirements(other)
    return found


def is_installed(name: str) -> bool:
    """Return whether a distribution is installed: some requirements are for other versions of Python."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def copy_module(name: str, folder: Path) -> None:
    """Copy a module or a package that can be imported here, without compiled files."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    if spec.submodule_search_locations is None:
        shutil.copy(spec.origin, folder)
    else:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, folder / name, ignore=ignored)


def write_distribution(folder: Path, name: str, entry_points: str | None) -> None:
    """Write the folder of metadata that an installer would write."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(_FIELDS.format(name=name) + _REST)
    info.joinpath("RECORD").write_text("")
    if entry_points is not None:
        info.joinpath("entry_points.txt").write_text(entry_points)
