"""Tells ranks where modules are that they would not find on `sys.path`.

Pytest's import mode "importlib" and loaders of plugins import files whose folder is not on `sys.path`.  A
module that was made at run time is in no file: what it defines can only be pickled by value.
"""

from __future__ import annotations

import os
import sys

from procession._python.functions import unwrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from procession.protocol import Launch

    # by a module's name: its file, its submodules' folders
    Locations = dict[str, tuple[str, list[str]]]


def locate(launch: Launch) -> tuple[Locations, frozenset[str]]:
    """Return the modules of fn, args and the caller that are not where their names say.

    The second value names those of fn and args that were made at run time.  Objects inside args are skipped:
    most of their modules are the caller's, or can be imported by any process.
    """
    fn, keywords = unwrap(launch.fn)
    values = [*launch.args, *keywords]
    own = getattr(fn, "__module__", None)
    names = {own if isinstance(own, str) else "", *(type(value).__module__ for value in values)}
    caller = _find_caller()
    locations: Locations = {}
    made: set[str] = set()
    for name in {*names, caller} - {"builtins", "__main__", "__mp_main__", ""}:
        module = sys.modules.get(name)
        if module is None or _is_on_path(name, module):
            continue
        if getattr(module, "__file__", None):
            locations.update(_locate_with_packages(name))
        elif (
            name in names
            and getattr(module, "__spec__", None) is None
            and not hasattr(module, "__path__")
        ):
            made.add(name)
    return locations, frozenset(made)


def _find_caller() -> str:
    """Return the name of the module that launches ranks."""
    frame: Any = sys._getframe()
    name = ""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if not name.startswith(("procession", "contextlib")):
            return name
        frame = frame.f_back
    return name


def _is_on_path(name: str, module: ModuleType) -> bool:
    """Return whether an import would look for a module where its file is, judged by names alone."""
    file = getattr(module, "__file__", None)
    if not file:
        return False
    stem = file[: file.find(".", file.rfind(os.sep) + 1)].removesuffix(os.sep + "__init__")
    tail = os.sep + name.replace(".", os.sep)
    if not stem.endswith(tail):
        return False
    folder = stem[: -len(tail)]
    return folder in sys.path or folder in map(os.path.abspath, sys.path)


def _locate_with_packages(name: str) -> Locations:
    parts = name.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    found: Locations = {}
    for one in names:
        module: Any = sys.modules.get(one)
        if module is not None:
            file = getattr(module, "__file__", None) or ""
            found[one] = file, [str(folder) for folder in getattr(module, "__path__", ())]
    return found


class _Finder:
    """Finds modules where the caller has them, through an ordinary finder if that finds the same file."""

    def __init__(self) -> None:
        self.locations: Locations = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.locations:
            return None
        file, folders = self.locations[name]
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and _is_the_same(spec, file, folders):
                return spec
        return _make_spec(name, file, folders)


def _is_the_same(spec: ModuleSpec, file: str, folders: list[str]) -> bool:
    if file:
        return spec.origin == file
    return set(folders) <= set(spec.submodule_search_locations or ())


def _make_spec(name: str, file: str, folders: list[str]) -> ModuleSpec | None:
    from importlib.machinery import ModuleSpec
    from importlib.util import spec_from_file_location

    if file:
        return spec_from_file_location(name, file, submodule_search_locations=folders or None)
    spec = ModuleSpec(name, None, is_package=True)  # a namespace package
    spec.submodule_search_locations = folders
    return spec


_finder = _Finder()


def use(locations: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Make imports in this process find modules at these locations."""
    finder: Any = _finder
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)
    for name, (file, folders) in locations.items():
        _finder.locations[name] = file, list(folders)
