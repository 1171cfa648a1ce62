"""The rooms of procession and the imports between them: ``python tests/imports.py`` prints them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src"

ROOMS = (
    "__main__",
    "_pyinstaller",
    "cli",
    "testing",
    "__init__",
    "api",
    "_registry",
    "backends",
    "remote",
    "commands",
    "authoring",
    "_forkserver",
    "_launch",
    "context",
    "_supervise",
    "launch_options",
    "rank_place",
    "_rank",
    "_cleanup",
    "_linux",
    "protocol",
    "exceptions",
    "failure",
    "_python",
)
"""From top to bottom: a module imports from rooms below its own, and never from one above."""


class Import(NamedTuple):
    """An import of one module by another, or a string that names a module."""

    source: str
    target: str
    line: int
    how: str
    """``top``, ``lazy`` (in a function), ``typing`` (under TYPE_CHECKING) or ``text`` (in a string)."""


def list_modules() -> dict[str, Path]:
    """Return the file of each module."""
    found = {}
    for path in sorted((SOURCE / "procession").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module: a package, or a module beside it."""
    return module.split(".")[1] if "." in module else "__init__"


def list_imports() -> Iterator[Import]:
    """Return the imports of each module from the others."""
    modules = list_modules()
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, how in _walk(tree, "top"):
            for target in _targets(node, modules):
                if target != name:
                    yield Import(name, target, getattr(node, "lineno", 0), how)


def list_upward() -> list[Import]:
    """Return the imports by modules of one room from a room above it."""
    order = {room: place for place, room in enumerate(ROOMS)}
    return [
        one for one in list_imports() if order[room_of(one.target)] < order[room_of(one.source)]
    ]


def _walk(node: ast.AST, how: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        own = how
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            own = "lazy"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            own = "typing"
        yield child, "text" if isinstance(child, ast.Constant) else own
        yield from _walk(child, own)


def _targets(node: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom) and node.module in modules:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in modules else node.module
    elif isinstance(node, ast.Constant) and node.value in modules and node.value != "procession":
        yield node.value


def main() -> None:
    """Print each room with the rooms that it imports from, and the imports that go upward."""
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for one in list_imports():
        if room_of(one.source) != room_of(one.target):
            arrows[room_of(one.source)].add(room_of(one.target))
    for room in ROOMS:
        print(f"{room:14} -> {' '.join(sorted(arrows[room], key=ROOMS.index))}")
    for one in list_upward():
        print(f"upward: {one.source}:{one.line} -> {one.target} ({one.how})")


if __name__ == "__main__":
    main()
