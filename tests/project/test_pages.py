"""The picture of a launch, the map of modules and the promises agree with the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imports import ROOMS, SOURCE

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAP = CONTRIBUTING.partition("## Module map")[2]


def test_the_script_draws_the_picture_of_a_launch(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "images"
    script = tmp_path / "launch.py"
    script.write_bytes((folder / "launch.py").read_bytes())
    subprocess.run([sys.executable, script], check=True)
    drawn = (tmp_path / "launch.svg").read_text(encoding="utf-8")
    assert drawn == (folder / "launch.svg").read_text(encoding="utf-8")


def test_the_map_of_modules_has_every_room_in_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", MAP, re.MULTILINE)) == ROOMS


@pytest.mark.parametrize("file", re.findall(r"`(\w+(?:/\w+)*\.py)`", MAP.partition("Where to")[2]))
def test_a_file_that_the_map_names_exists(file: str) -> None:
    assert (SOURCE / "procession" / file).exists()


def test_every_promise_has_a_heading_and_a_text() -> None:
    page = (ROOT / "docs" / "explanation" / "promises.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    assert len(set(parts[1::2])) == 21
    assert all(text.strip() for text in parts[2::2])


PROMISE = re.compile(r"^Promises?: (.*?)\.$", re.MULTILINE | re.DOTALL)


def test_promises_that_tests_name_have_a_heading() -> None:
    page = (ROOT / "docs" / "explanation" / "promises.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## (.*)$", page, re.MULTILINE))
    named = {
        " ".join(name.split())
        for path in (ROOT / "tests").rglob("test_*.py")
        for names in PROMISE.findall(ast.get_docstring(ast.parse(path.read_text())) or "")
        for name in names.split(";")
    }
    assert len(named) > 10
    assert named <= headings
