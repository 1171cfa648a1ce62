"""Fails when a module or a function is longer than the design allows; docstrings do not count."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = 400
FUNCTION = 40


def find_files(roots: list[str]) -> Iterator[Path]:
    """Return the Python files under (or at) the roots."""
    for root in map(Path, roots):
        yield from sorted(root.rglob("*.py")) if root.is_dir() else [root]


def measure(path: Path) -> Iterator[str]:
    """Return a line for each thing in a file that is too long."""
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    if lines > MODULE:
        yield f"{path}: {lines} lines (at most {MODULE})"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = count_lines(node) - sum(map(count_lines, find_docstring(node)))
            if lines > FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines (at most {FUNCTION})"


def count_lines(node: ast.stmt) -> int:
    """Return how many lines a statement has."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def find_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """Return the statement that is a function's docstring, if it has one."""
    return node.body[:1] if ast.get_docstring(node, clean=False) is not None else []


def main() -> int:
    """Print what is too long; return how many things are."""
    found = [line for path in find_files(sys.argv[1:]) for line in measure(path)]
    print("\n".join(found) or "modules and functions are within their limits")
    return min(len(found), 1)


if __name__ == "__main__":
    raise SystemExit(main())
