"""docs/troubleshooting.md has every exception that procession raises, and only messages of the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import procession

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ELSEWHERE = ("Messages of Python", "No message")
"""Sections whose messages are not procession's."""


def list_sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def list_excerpts() -> list[str]:
    """Return procession's own messages: the code in the first cell of each row."""
    ours = [text for name, text in list_sections().items() if name not in ELSEWHERE]
    return re.findall(r"^\| `([^`]+)` \|", "\n".join(ours), re.MULTILINE)


@cache
def list_texts() -> tuple[str, ...]:
    """Return the strings of the source without docstrings; f-strings without their variable parts."""
    files = [*ROOT.glob("src/procession/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return tuple(text for tree in trees for text in read_strings(tree))


def read_strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())
        elif isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "" for one in node.values]
            yield " ".join("".join(map(str, parts)).split())
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield from read_strings(node)


def occurs(excerpt: str) -> bool:
    pieces = [re.escape(piece.strip()) for piece in excerpt.split("...")]
    pattern = re.compile(".*".join(pieces))
    return any(pattern.search(text) for text in list_texts())


def test_the_page_has_an_entry_for_each_exception_and_no_other() -> None:
    public = {name: getattr(procession, name) for name in procession.__all__}
    raised = {
        name
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    section = list_sections()["What procession raises"]
    entries = re.split(r"^### `(\w+)`$", section, flags=re.MULTILINE)
    assert set(entries[1::2]) == raised
    for name, text in zip(entries[1::2], entries[2::2], strict=True):
        assert re.search(r"^\| `", text, re.MULTILINE), name


@pytest.mark.parametrize("excerpt", list_excerpts())
def test_the_source_has_the_message(excerpt: str) -> None:
    assert len(excerpt.replace("...", "").strip()) >= 8, "too short to say which message"
    assert occurs(excerpt)


def test_an_invented_message_is_not_found() -> None:
    assert not occurs("the ranks ... are tired")
