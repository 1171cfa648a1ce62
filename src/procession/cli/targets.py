"""Imports the function that a command line names, under a name by which ranks can import it too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


class TargetError(Exception):
    """Raised when a command line names no callable function; the message is one line."""


def import_function(target: str) -> Callable[..., Any]:
    """Return the function that ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION`` names.

    The module's folder becomes the first entry of `sys.path`, which ranks take over.

    Raises:
        TargetError: there is no such function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise TargetError(f"{target!r} is not MODULE:FUNCTION or FILE.py:FUNCTION")
    module = _name_file(place) if place.endswith(".py") else _name_module(place)
    found: Any = _import(module)
    for attribute in name.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise TargetError(f"{place} has no {name!r}") from None
    if not callable(found):
        raise TargetError(f"{target} is not a function but {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _name_module(module: str) -> str:
    _put_first(os.getcwd())
    return module


def _name_file(path: str) -> str:
    if not os.path.isfile(path):
        raise TargetError(f"there is no file {path}")
    folder, file = os.path.split(os.path.abspath(path))
    _put_first(folder)
    stem = file.removesuffix(".py")
    meant = _origin_of(stem)
    if not (os.path.exists(meant) and os.path.samefile(meant, path)):
        raise TargetError(
            f"{path} cannot be imported as {stem!r}: that name refers to {meant or 'nothing'}; "
            "rename the file, or name its package as MODULE:FUNCTION"
        )
    return stem


def _put_first(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _origin_of(module: str) -> str:
    """Return the file that a module's name refers to, without running it."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # no parent package; a module without a spec
        return ""
    return (spec.origin or "a namespace package") if spec else ""


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:
        where = _last_line(error)
        raise TargetError(
            f"cannot import {module}: {type(error).__name__}: {error}{where}"
        ) from error


def _last_line(error: BaseException) -> str:
    """Return the place where a module's import failed; "" if the module was not found."""
    trace, where = error.__traceback__, ""
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            where = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return where
