"""Pickles by value, through cloudpickle, what another process could not import by name.

What it could import still goes by name, so instances of a script's classes remain instances of them in ranks,
and in what ranks send back.  A function that goes by value keeps its module's globals if ranks can import the
module.  Callers and ranks import `by_value` only when plain pickling has failed.
"""

from __future__ import annotations

import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import cached_property, partial
from types import CodeType, FunctionType
from typing import Any

from procession._python.main_module import (
    MAIN_NAMES,
    find,
    find_import,
    find_script,
    globals_of,
    look_up,
)
from procession._python.unpatched import RLock
from procession._rank.rebuild import make_code

Reducers = MutableMapping[Any, Callable[[Any], Any]]


def has_cloudpickle() -> bool:
    """Return whether cloudpickle can be imported."""
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


class Script:
    """The script of this process, and how the receiver of a pickle imports it (``main``; None if it cannot).

    With ``for_caller`` the receiver is the caller, which has the whole script; otherwise it is a rank.
    """

    def __init__(self, fn: Any = None, *, for_caller: bool = False) -> None:
        self.for_caller = for_caller
        self.namespace: dict[str, Any] = find_script(fn)
        self.main: tuple[str, str] | None = find_import(self.namespace)
        self.apart: bool = self.namespace is not vars(sys.modules["__main__"])

    @cached_property
    def guarded(self) -> frozenset[str]:
        """Names that exist only where the script runs as ``__main__``: ranks import it, and lack them."""
        if self.for_caller:
            return frozenset()
        how, what = self.main or ("", "")
        return _find_guarded_names(what if how == "path" else self.namespace.get("__file__", ""))

    def has(self, value: Any) -> bool:
        """Return whether ranks find a function or class in the script by its name."""
        name = getattr(value, "__qualname__", "")
        if self.main is None or getattr(value, "__module__", None) not in MAIN_NAMES:
            return False
        try:
            found = look_up(self.namespace, name)
        except AttributeError:
            return False
        return found is value and name.partition(".")[0] not in self.guarded


class Watching:
    """Mixin for picklers: keeps the last object pickled, which is the cause if pickling fails."""

    last: Any = None

    def reducer_override(self, value: Any) -> Any:
        """Return how to pickle a value: see `pickle.Pickler.reducer_override`."""
        self.last = value
        above: Any = getattr(super(), "reducer_override", None)
        return above(value) if above is not None else NotImplemented


class _ByName(Watching):
    """Mixin for picklers: pickles what ranks can import by name, and leaves the rest to the pickler."""

    script: Script

    def reducer_override(self, value: Any) -> Any:
        """Return how to pickle a value."""
        is_function = isinstance(value, FunctionType)
        if (is_function or isinstance(value, type)) and self.script.has(value):
            if self.script.apart:
                return find, ("__main__", value.__qualname__)
            return NotImplemented
        reduced = super().reducer_override(value)
        return _share_globals(reduced, value, self.script) if is_function else reduced


class _Globals:
    """Stands for the globals of a module in a pickle."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return globals_of, (self.module,)


def _share_globals(reduced: Any, function: FunctionType, script: Script) -> Any:
    """Make a function that cloudpickle reduced share its module's globals, if ranks can import the module."""
    module = _find_module(function.__globals__, script)
    try:
        make, (code, _, *others), (state, slots), *rest = reduced
        names = slots["__globals__"]
    except (TypeError, ValueError, KeyError):  # by name, or in the form of a later cloudpickle
        return reduced
    if not module:
        return reduced
    lacking = script.guarded if module == "__main__" else ()
    slots = {**slots, "__globals__": {name: names[name] for name in names if name in lacking}}
    return (make, (code, _Globals(module), *others), (state, slots), *rest)


def _find_module(namespace: dict[str, Any], script: Script) -> str:
    """Return the name of the module whose globals ``namespace`` is; "" if ranks cannot import it."""
    if namespace is script.namespace:
        return "__main__" if script.main else ""
    name = str(namespace.get("__name__"))
    module = sys.modules.get(name)
    if module is None or vars(module) is not namespace or name in (*MAIN_NAMES, *_by_value):
        return ""
    return name


def make_pickler(
    file: Any, leave_in: Any, reducers: Reducers, script: Script, *, hurried: bool = False
) -> Any:
    """Return a pickler that pickles by value where it must, if cloudpickle is installed.

    With ``hurried``, use cloudpickle only if it is already imported.
    """
    if (hurried and not sys.modules.get("cloudpickle")) or not has_cloudpickle():
        made = type("ByNamePickler", (_ByName, pickle.Pickler), {"script": script})
        pickler: Any = made(file, 5, buffer_callback=leave_in)
        pickler.dispatch_table = reducers
        return pickler
    import cloudpickle

    theirs: Any = cloudpickle.Pickler.dispatch_table
    own: Any = {CodeType: partial(_reduce_code, theirs[CodeType])}
    # a pickler reads the table when it is made: a table that is set later has no effect
    table = {"dispatch_table": ChainMap(own, reducers, theirs), "script": script}
    made = type("ByValuePickler", (_ByName, cloudpickle.Pickler), table)
    return made(file, 5, leave_in)


def _reduce_code(reduce: Callable[[Any], tuple[Any, ...]], code: CodeType) -> Any:
    """Keep the file name of code, which cloudpickle 3.1.3 replaces: tracebacks show lines of that file."""
    make, arguments = reduce(code)
    return make_code, (make, arguments, code.co_filename)


def dumps(value: Any, *, hurried: bool) -> bytes:
    """Pickle what a rank sends after plain pickling has failed; ``hurried`` imports no cloudpickle for it."""
    import copyreg
    import io

    file = io.BytesIO()
    script = Script(for_caller=True)
    make_pickler(file, None, copyreg.dispatch_table, script, hurried=hurried).dump(value)
    return file.getvalue()


_by_value: set[str] = set()
_lock = RLock()  # all threads share cloudpickle's register


@contextmanager
def modules_by_value(names: frozenset[str]) -> Iterator[None]:
    """Make cloudpickle pickle by value what these modules define: no file has them."""
    if not names:
        yield
        return
    import cloudpickle

    with _lock:
        new = names - set(cloudpickle.list_registry_pickle_by_value())
        for name in new:
            cloudpickle.register_pickle_by_value(sys.modules[name])
        _by_value.update(names)
        try:
            yield
        finally:
            _by_value.difference_update(names)
            for name in new:
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


def _find_guarded_names(path: str) -> frozenset[str]:
    """Return the names that a script binds only under ``if __name__ == "__main__":``."""
    import ast

    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    guarded: set[str] = set()
    others: set[str] = set()
    for statement in tree.body:
        is_guard = isinstance(statement, ast.If) and _tests_name(statement.test)
        (guarded if is_guard else others).update(_list_bound_names(statement))
    return frozenset(guarded - others)


def _tests_name(test: Any) -> bool:
    import ast

    parts = [test.left, *test.comparators] if isinstance(test, ast.Compare) else []
    return {getattr(part, "id", getattr(part, "value", None)) for part in parts} == {
        "__name__",
        "__main__",
    }


def _list_bound_names(statement: Any) -> Iterator[str]:
    """Yield the names that a statement at the top level of a module binds."""
    import ast

    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for one in statement.names:
            yield (one.asname or one.name).partition(".")[0]
    if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
        yield statement.id
    if isinstance(statement, ast.ExceptHandler) and statement.name:
        yield statement.name
    for part in ast.iter_child_nodes(statement):
        if not isinstance(part, ast.Lambda):
            yield from _list_bound_names(part)
