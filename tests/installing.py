"""Install distributions: by pip from tests/distributions, or as folders of metadata that tests write."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from procession import BackendInfo, list_backends
from procession.testing import introspect, listing
from scripts import PROGRAMS

if TYPE_CHECKING:
    import pytest

GROUP = "procession.start_methods"
WritePlugin = Callable[[str, str], str]
DISTRIBUTIONS = Path(__file__).parent / "distributions"
TORCH_KILLER = "[console_scripts]\nkiller = killer:main\nthis line has no equals sign\n"
"""If any distribution has these entry points, `entry_points()` raises, and with it `import torch`."""


def write_distribution(
    site: Path,
    name: str,
    claims: Mapping[str, str] | None = None,
    *,
    version: str = "1.0",
    text: str | bytes | None = None,
    metadata: bool = True,
    folder: str | None = None,
) -> Path:
    """Write the ``.dist-info`` folder that an installer would write for a distribution."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = site / (folder or f"{stem}.dist-info")
    info.mkdir(parents=True)
    if metadata:
        fields = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        info.joinpath("METADATA").write_text(fields)
    lines = [f"[{GROUP}]", *(f"{method} = {target}" for method, target in (claims or {}).items())]
    content = "\n".join(lines) + "\n" if text is None else text
    if claims or text is not None:
        data = content if isinstance(content, bytes) else content.encode()
        info.joinpath("entry_points.txt").write_bytes(data)
    return info


def write_plugin(site: Path, name: str, method: str, module: str) -> None:
    """Write a distribution with a backend that passes all checks of the registry."""
    write_distribution(site, name, {method: f"{module}:Backend"})
    text = (PROGRAMS / "plugin_backend.py").read_text(encoding="utf-8")
    site.joinpath(f"{module}.py").write_text(text.replace('"NAME"', repr(method)))


def write_unique_plugin(site: Path, prefix: str, name: str, method: str) -> str:
    """Write a plugin whose module has a name of this test alone, and return that name."""
    module = re.sub(r"\W", "_", f"{prefix}_{name}_{method}")
    write_plugin(site, name, method, module)
    return module


def open_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder first on `sys.path`, and remove our variables from the environment."""
    monkeypatch.delenv("PROCESSION_PLUGINS", raising=False)
    monkeypatch.delenv("PROCESSION_START_METHOD", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    introspect.forget_plugins()
    return folder


def install(target: Path, *names: str) -> Path:
    """Build and install distributions of tests/distributions, without the network."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", str(target)),
            *(str(DISTRIBUTIONS / name) for name in names),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return target


def run_python(
    *arguments: str, path: Path | None = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python with a folder first on its path, and return its exit status and output."""
    before = variables.pop("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    folders = [str(path) if path else "", before]
    return listing.run_python(*arguments, path=folders, cwd=cwd, **variables)


def listed(name: str) -> list[BackendInfo]:
    return [info for info in list_backends() if info.name == name]


def status_of(name: str) -> list[str]:
    return [info.status for info in listed(name)]
