"""The reference lists everything public, with the texts of the source."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference.md"


def test_the_page_is_up_to_date() -> None:
    """``python docs/generate_reference.py`` updates it."""
    command = [sys.executable, str(ROOT / "docs" / "generate_reference.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_environment_variables_are_listed() -> None:
    read: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        read.update(re.findall(r'"(PROCESSION_[A-Z_]+)"', path.read_text(encoding="utf-8")))
    read.discard("PROCESSION_KIT")  # the kit sets it to test whether ranks get it
    listed = re.findall(r"^\| `(PROCESSION_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(read)
