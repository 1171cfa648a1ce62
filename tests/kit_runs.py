"""Run the conformance kit as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KIT = "--pyargs", "procession.testing", "-c", os.devnull, "-p", "no:cacheprovider", "-q"


def run_kit(
    folder: Path, *arguments: str, kit: Sequence[str] = KIT
) -> subprocess.CompletedProcess[str]:
    """Run the kit in a folder, with these arguments of pytest."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *kit, "--rootdir", str(folder), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
