"""Turns a launch's fn and args into bytes, once for all its ranks.

Whatever `multiprocessing.reduction` or torch registered a reducer for (queues, locks, connections, shared
tensors) is handed over as under multiprocessing: descriptors travel beside the pickle.  What lives in
a main module that ranks can import goes by reference; what lives in one that they cannot (a notebook,
a REPL, ``-c``, standard input) goes by value through cloudpickle, where that is installed.
"""

from __future__ import annotations

import io
import marshal
import multiprocessing.context
import os
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from procession.exceptions import note_on
from procession.fresh import InheritedFd, make_code
from procession.protocol import Launch
from procession.syscalls import memory_file

if TYPE_CHECKING:
    from procession.fresh import FreshOrders

_MAIN_NAMES = (b"__main__", b"__mp_main__")  # the second is what a rank calls its launcher's


@dataclass(frozen=True, slots=True)
class Pickled:
    """A pickled (fn, args), what goes along with it, and what a rank must import first."""

    data: bytes
    fds: list[int]
    main: tuple[str, str] | None
    sources: dict[str, str]


class _Spawning:
    """What reducers see as the process being spawned; collects the descriptors to hand over."""

    DupFd = InheritedFd

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1


def pickle_call(launch: Launch) -> Pickled:
    """Pickle fn and args.

    Raises:
        Exception: what pickling raised, with a note that names the argument.
        pickle.PicklingError: fn or args live in a main module that ranks cannot import.
    """
    main = find_main()
    try:
        data, fds = _dump(launch, by_value=False)
    except Exception:
        if main is not None or not _is_of_main(launch) or not _has_cloudpickle():
            raise  # else it is a lambda of a notebook
    else:
        if not any(name in data for name in _MAIN_NAMES):
            return Pickled(data, fds, None, {})
        if main is not None:
            return Pickled(data, fds, main, {})
    if not _has_cloudpickle():
        raise pickle.PicklingError(
            "fn or args are defined in __main__, which ranks cannot import because it was read from "
            f"a notebook, a REPL, -c or standard input; start method {launch.start_method!r} then "
            "needs cloudpickle: pip install 'procession[cloudpickle]', or use start_method='fork'"
        )
    data, fds = _dump(launch, by_value=True)
    return Pickled(data, fds, None, _sources_without_files())


def write_payload(orders: FreshOrders, pickled: Pickled) -> int:
    """Return the descriptor of a file in memory that holds the orders and the pickle."""
    header = marshal.dumps(dict(orders))
    return memory_file("procession-payload", len(header).to_bytes(8, "big"), header, pickled.data)


def find_main() -> tuple[str, str] | None:
    """Tell how a rank can import this process's main module: by name or path; None if it cannot."""
    module = sys.modules["__main__"]
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:  # python -m; a package's __main__ would run, not just be imported
        return None if name == "__main__" or name.endswith(".__main__") else ("name", name)
    path = getattr(module, "__file__", None)
    if path is None or not os.path.exists(path):
        return None
    return "path", os.path.abspath(path)


def _dump(launch: Launch, *, by_value: bool) -> tuple[bytes, list[int]]:
    spawning: Any = _Spawning()
    multiprocessing.context.set_spawning_popen(spawning)
    try:
        return _pickle((launch.fn, launch.args), by_value), spawning.fds
    except Exception as error:
        _blame(error, launch, by_value)
        raise
    finally:
        multiprocessing.context.set_spawning_popen(None)


def _pickle(value: object, by_value: bool) -> bytes:
    buffer = io.BytesIO()
    _pickler(buffer, by_value).dump(value)
    return buffer.getvalue()


def _pickler(buffer: io.BytesIO, by_value: bool) -> Any:
    if not by_value:
        return ForkingPickler(buffer, pickle.HIGHEST_PROTOCOL)
    import cloudpickle

    theirs: Any = cloudpickle.Pickler.dispatch_table
    registered = ForkingPickler(buffer).dispatch_table  # what register() and copyreg hold
    own: Any = {types.CodeType: partial(_reduce_code, theirs[types.CodeType])}
    # the table is read where a pickler is made: one that is set later has no effect
    table = {"dispatch_table": ChainMap(own, registered, theirs)}
    return type("ByValuePickler", (cloudpickle.Pickler,), table)(buffer, pickle.HIGHEST_PROTOCOL)


def _reduce_code(reduce: Callable[[Any], tuple[Any, ...]], code: types.CodeType) -> Any:
    """Keep the name of code's file, which cloudpickle 3.1.3 replaces: tracebacks show its lines."""
    make, arguments = reduce(code)
    return make_code, (make, arguments, code.co_filename)


def _blame(error: Exception, launch: Launch, by_value: bool) -> None:
    """Note which argument an error of pickling comes from, and the way out."""
    parts = [("fn", launch.fn), *((f"args[{i}]", arg) for i, arg in enumerate(launch.args))]
    for name, part in parts:
        try:
            _pickle(part, by_value)
        except Exception:
            note_on(
                error,
                f"{name} ({type(part).__name__}) cannot be pickled, which start method "
                f"{launch.start_method!r} needs: define functions and classes at the top of a "
                "module, or use start_method='fork'",
            )
            return


def _is_of_main(launch: Launch) -> bool:
    parts = (launch.fn, *launch.args)
    return any(getattr(part, "__module__", None) == "__main__" for part in parts)


def _has_cloudpickle() -> bool:
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


def _sources_without_files() -> dict[str, str]:
    """Return the sources that only `linecache` knows (notebook cells), for tracebacks in ranks."""
    linecache = sys.modules.get("linecache")
    if linecache is None:
        return {}
    return {
        name: "".join(entry[2])
        for name, entry in list(linecache.cache.items())
        if len(entry) == 4 and entry[1] is None and sum(map(len, entry[2])) < 1 << 20
    }
