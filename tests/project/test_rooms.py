"""Modules import from rooms below their own, and no other code than the package imports private rooms."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imports import ROOMS, list_imports, list_modules, list_upward, room_of

EXCEPTIONS = {
    ("procession._cleanup.helpers", "procession._rank.life"): "asks whether this process is a rank",
    (
        "procession._rank.fork_signals",
        "procession._supervise.forwarding",
    ): "the module of a handler of ours",
    (
        "procession._launch.spec",
        "procession",
    ): "the first working directory, noted at the first import",
}
"""Modules that name one of a room above, and why; the first two name it in a string, without an import."""

IN_A_RANK = {"_rank", "_python", "_linux", "_cleanup", "protocol"}
"""The rooms that modules of `_rank` may import at their top."""


def test_a_module_imports_from_rooms_below_its_own() -> None:
    upward = {(one.source, one.target) for one in list_upward()}
    assert upward == set(EXCEPTIONS)


def test_every_module_is_in_a_room() -> None:
    assert {room_of(name) for name in list_modules()} == set(ROOMS)


def test_a_rank_imports_only_the_rooms_that_it_needs() -> None:
    top = {
        room_of(one.target)
        for one in list_imports()
        if room_of(one.source) == "_rank" and one.how == "top"
    }
    assert top <= IN_A_RANK | {"exceptions"}


def test_private_rooms_are_one_level_deep_and_import_nothing_themselves() -> None:
    for name, path in list_modules().items():
        if path.name == "__init__.py" and room_of(name).startswith("_") and room_of(name) in ROOMS:
            if name in ("procession", "procession._pyinstaller"):
                continue
            assert path.read_text() == "", name
            assert name.count(".") == 1, name


CIRCLES = {
    (
        "procession._python.greenlets",
        "procession._python.unpatched",
    ): "only where gevent or eventlet is",
    (
        "procession._supervise.at_exit",
        "procession._supervise.launches",
    ): "only at the caller's exit",
}
"""Pairs of modules of which one imports the other in a function, and when."""


def list_circles() -> Iterator[tuple[str, str]]:
    """Return the pairs of modules that import each other."""
    pairs = {(one.source, one.target) for one in list_imports() if one.how in ("top", "lazy")}
    for source, target in pairs:
        if source < target and (target, source) in pairs and source != "procession":
            yield source, target


def test_no_two_modules_import_each_other() -> None:
    assert set(list_circles()) == set(CIRCLES)


DOOR = "procession.testing.introspect"
"""The one module of the kit that imports private rooms."""

PUBLIC = (
    "procession",
    "procession.authoring",
    "procession.commands",
    "procession.remote",
    "procession.remote.relay",
)
"""The modules, besides the kit, whose ``__all__`` an author of a backend may import."""


def list_foreign_imports() -> Iterator[tuple[str, str, str]]:
    """Return the file, module and name of each import from procession by plugins and by the kit."""
    root = Path(__file__).parents[2]
    for path in [*root.glob("plugins/*/*/**/*.py"), *root.glob("src/procession/testing/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == (
                "procession"
            ):
                for alias in node.names:
                    yield path.relative_to(root).as_posix(), str(node.module), alias.name


def test_plugins_import_documented_names_only() -> None:
    wrong = []
    for path, module, name in list_foreign_imports():
        if not path.startswith("plugins/") or module.startswith("procession.testing"):
            continue
        if f"{module}.{name}" in PUBLIC:
            continue
        if module not in PUBLIC or name not in importlib.import_module(module).__all__:
            wrong.append(f"{path}: {module}.{name}")
    assert wrong == []


def test_only_introspect_imports_private_rooms_for_the_kit() -> None:
    wrong = [
        f"{path}: {module}.{name}"
        for path, module, name in list_foreign_imports()
        if path.startswith("src/")
        and not path.endswith("/introspect.py")
        and any(part.startswith("_") for part in f"{module}.{name}".split("."))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", [*PUBLIC[1:], DOOR])
def test_every_name_in_all_exists(module: str) -> None:
    found = importlib.import_module(module)
    assert all(hasattr(found, name) for name in found.__all__)
