"""Pickles a launch's fn and args, once for all its ranks.

Whatever `multiprocessing.reduction` or torch registered a reducer for (queues, locks, connections, shared
tensors) is handed over as under multiprocessing: descriptors travel beside the pickle.  What lives in
a main module that ranks can import goes by reference; what lives in one that they cannot (a notebook,
a REPL, ``-c``, standard input) goes by value through cloudpickle, where that is installed.  Large
buffers (of numpy, pyarrow, `array`, memoryviews) are left out of the pickle: see `payloadfile`.
"""

from __future__ import annotations

import array
import multiprocessing.context
import os
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from procession.exceptions import note_on
from procession.handover import InheritedFd, make_array, make_code, make_view
from procession.payloadfile import OUT_OF_BAND, PayloadFile
from procession.protocol import Launch


class Pickled(NamedTuple):
    """A pickled (fn, args), what goes along with it, and what a rank must import first."""

    file: PayloadFile
    fds: list[int]
    main: tuple[str, str] | None
    sources: dict[str, str]


class _Nowhere:
    """Stands for a payload's file where only the attempt to pickle counts."""

    def write(self, data: bytes | bytearray) -> int:
        return len(data)

    def leave_in(self, buffer: pickle.PickleBuffer) -> bool:  # noqa: ARG002
        return False


class _Spawning:
    """What reducers see as the process being spawned; collects the descriptors to hand over."""

    DupFd = InheritedFd

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1


@contextmanager
def pickled_call(launch: Launch) -> Iterator[Pickled]:
    """Provide fn and args, pickled, for as long as ranks are started with them.

    Raises:
        Exception: what pickling raised, with a note that names the argument.
        pickle.PicklingError: fn or args live in a main module that ranks cannot import.
    """
    file = PayloadFile()
    try:
        yield _pickle_call(launch, file)
    finally:
        file.close()


def _pickle_call(launch: Launch, file: PayloadFile) -> Pickled:
    main = find_main()
    try:
        fds = _dump(launch, file, by_value=False)
    except Exception:
        if main is not None or not _is_of_main(launch) or not _has_cloudpickle():
            raise  # else it is a lambda of a notebook
    else:
        if not file.names_main:
            return Pickled(file, fds, None, {})
        if main is not None:
            return Pickled(file, fds, main, {})
    if not _has_cloudpickle():
        raise pickle.PicklingError(
            "fn or args are defined in __main__, which ranks cannot import because it was read from "
            "a notebook, a REPL, -c or standard input, or is the __main__.py of a package or an "
            f"archive; start method {launch.start_method!r} then needs them in a module, or "
            "cloudpickle: pip install 'procession[cloudpickle]'; or use start_method='fork'"
        )
    file.restart()
    fds = _dump(launch, file, by_value=True)
    return Pickled(file, fds, None, _sources_without_files())


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


def _dump(launch: Launch, file: PayloadFile, *, by_value: bool) -> list[int]:
    spawning: Any = _Spawning()
    multiprocessing.context.set_spawning_popen(spawning)
    try:
        _pickler(file, by_value).dump((launch.fn, launch.args))
        return list(spawning.fds)
    except Exception as error:
        _blame(error, launch, by_value)
        raise
    finally:
        multiprocessing.context.set_spawning_popen(None)


def _pickler(file: PayloadFile | _Nowhere, by_value: bool) -> Any:
    """Return a pickler with the reducers that `ForkingPickler.register` and copyreg hold, and ours."""
    theirs: Any = ForkingPickler
    pickler = theirs(file, pickle.HIGHEST_PROTOCOL, True, file.leave_in)
    registered = pickler.dispatch_table
    if not by_value:
        pickler.dispatch_table = ChainMap(registered, _REDUCERS)
        return pickler
    import cloudpickle

    by_name: Any = cloudpickle.Pickler.dispatch_table
    own: Any = {types.CodeType: partial(_reduce_code, by_name[types.CodeType])}
    # the table is read where a pickler is made: one that is set later has no effect
    table = {"dispatch_table": ChainMap(own, registered, _REDUCERS, by_name)}
    made: Any = type("ByValuePickler", (cloudpickle.Pickler,), table)
    return made(file, pickle.HIGHEST_PROTOCOL, file.leave_in)


def _reduce_array(values: array.array[Any]) -> Any:
    """Leave the content of a large array out of the pickle; `array` itself does not."""
    if type(values) is not array.array or len(values) * values.itemsize < OUT_OF_BAND:
        return values.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return make_array, (values.typecode, pickle.PickleBuffer(values))


def _reduce_view(view: memoryview) -> Any:
    """Hand over what a view shows: the rank gets a view of the same format, shape and writability."""
    form: Any = view.format
    memoryview(bytes(view.itemsize)).cast(form)  # here, rather than in the rank, it fails
    content: memoryview | bytes | bytearray = view
    if not view.c_contiguous:
        content = view.tobytes() if view.readonly else bytearray(view)
    return make_view, (pickle.PickleBuffer(content), form, view.shape)


_REDUCERS: dict[type, Callable[[Any], Any]] = {array.array: _reduce_array, memoryview: _reduce_view}


def _reduce_code(reduce: Callable[[Any], tuple[Any, ...]], code: types.CodeType) -> Any:
    """Keep the name of code's file, which cloudpickle 3.1.3 replaces: tracebacks show its lines."""
    make, arguments = reduce(code)
    return make_code, (make, arguments, code.co_filename)


def _blame(error: Exception, launch: Launch, by_value: bool) -> None:
    """Note which argument an error of pickling comes from, and the way out."""
    parts = [("fn", launch.fn), *((f"args[{i}]", arg) for i, arg in enumerate(launch.args))]
    for name, part in parts:
        try:
            _pickler(_Nowhere(), by_value).dump(part)
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
