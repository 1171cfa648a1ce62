"""Finds the script that runs as ``__main__``, its names, and how ranks can import it.

Usually it is the module ``__main__`` of `sys.modules`.  But some runners give a script separate globals
(cProfile and trace before Python 3.15, ``exec(code, {"__name__": "__main__"})``): `sys.modules` then has the
runner.  Pickles refer to functions of this module, so ranks import it, too.
"""

from __future__ import annotations

import os
import sys

from procession._python.functions import unwrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Namespace = dict[str, Any]

MAIN_NAMES = ("__main__", "__mp_main__")
"""The names of the main module: where it runs as a script, and where a rank imports it."""

_NO_FILES = ("/dev/fd/", "/dev/std", "/proc/")  # a rank would find its own files there, if any

_apart: Namespace | None = None  # globals of the last script found outside sys.modules


def find_script(fn: Any = None) -> Namespace:
    """Return the globals of the script that runs: fn's, if fn is the script's, else the caller's."""
    global _apart
    own = _namespace_of_main()
    if own.get("__name__") != "__main__":  # a process that has imported it, such as a rank
        return own
    found = _find_running(fn)
    if found is None:
        return own
    if found is not own:
        _apart = found
    return found


def find_import(script: Namespace) -> tuple[str, str] | None:
    """Return how a rank can import a script (by ``name`` or ``path``) and which; None if it cannot."""
    spec = script.get("__spec__")
    name = getattr(spec, "name", None)
    if name == "__main__" and getattr(spec, "loader", None) is None:  # a profiler's spec
        name = None
    if name is not None:  # python -m; to import a package's __main__ would run it
        return None if name == "__main__" or name.endswith(".__main__") else ("name", name)
    path = script.get("__file__")
    if path is None and script is not _namespace_of_main():
        path = _file_of_code(script)
    if path is None:
        return None
    path = os.path.abspath(path)
    return ("path", path) if os.path.isfile(path) and not path.startswith(_NO_FILES) else None


def look_up(script: Namespace, name: str) -> Any:
    """Return the object that a name stands for; the name may have dots.

    Raises:
        AttributeError: there is none.
    """
    first, *others = name.split(".")
    try:
        found = script[first]
    except KeyError:
        raise AttributeError(f"the main module has no {first!r}") from None
    for other in others:
        found = getattr(found, other)
    return found


def find(module: str, name: str) -> Any:
    """Return the object that a name stands for in this process's main module; pickles call this.

    Raises:
        AttributeError: there is none.
    """
    former = sys.modules.get("__mp_main__")  # what multiprocessing saw when it was imported
    scripts = [find_script(), _namespace_of_main(), _apart, vars(former) if former else None]
    for script in scripts:
        try:
            if script is not None:
                return look_up(script, name)
        except AttributeError:
            pass
    raise AttributeError(f"Can't get attribute {name!r} on the main module, which is {module!r}")


def globals_of(module: str) -> Namespace:
    """Return the globals of a module; pickles of functions that go by value call this."""
    if module in MAIN_NAMES:
        return find_script()
    __import__(module)
    return vars(sys.modules[module])


def _namespace_of_main() -> Namespace:
    return vars(sys.modules["__main__"])


def _find_running(fn: Any) -> Namespace | None:
    """Return globals that are called ``__main__``: fn's, else those of the innermost such caller."""
    for one in (_find_function(fn), getattr(fn, "__call__", None)):  # noqa: B004  # its globals matter
        own: Namespace | None = getattr(one, "__globals__", None)
        if own is not None and own.get("__name__") == "__main__":
            return own
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__":
            return frame.f_globals
        above: Any = frame.f_back
        frame = above
    return _apart


def _find_function(fn: Any) -> Any:
    """Return the function inside a partial or a method."""
    inner, _ = unwrap(fn)
    return getattr(inner, "__func__", inner)


def _file_of_code(script: Namespace) -> str | None:
    """Return the file that a script's functions come from, for a script without ``__file__``."""
    for value in list(script.values()):
        if getattr(value, "__globals__", None) is script:
            return str(value.__code__.co_filename)
    return None
