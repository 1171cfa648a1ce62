"""Pickles a launch's fn and args, once for all its ranks.

Objects with a reducer of `multiprocessing.reduction` or torch (queues, locks, connections, shared tensors)
reach ranks as under multiprocessing: their descriptors travel beside the pickle.  Functions and classes that
ranks can import are pickled by name.  Others (a lambda, or one defined in a notebook, a REPL, ``-c`` or
standard input) are pickled by value through cloudpickle, if it is installed: see `by_value`.  Large buffers
(of numpy, pyarrow, `array`, memoryviews) stay out of the pickle: see `payload_file`.
"""

from __future__ import annotations

import array
import multiprocessing.context
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._launch.payload_file import OUT_OF_BAND, PayloadFile
from procession._python.functions import unwrap
from procession._python.main_module import find_import
from procession._rank.locations import locate
from procession._rank.rebuild import CallPerRank, InheritedFd, make_array, make_view
from procession.exceptions import note_on
from procession.protocol import Launch

if TYPE_CHECKING:
    from procession._rank.locations import Locations
    from procession._rank.spec import BootstrapSpec


class Pickled(NamedTuple):
    """A pickled (fn, args), the descriptors that go with it, and the modules a rank must import first."""

    file: PayloadFile
    fds: list[int]
    main: tuple[str, str] | None
    sources: dict[str, str]
    locations: Locations
    made: frozenset[str] = frozenset()
    """Modules that were made at run time, which no rank can import."""

    def describe_in(self, spec: BootstrapSpec) -> None:
        """Write into the spec what ranks must import, and from where."""
        spec["main"], spec["sources"] = self.main, self.sources
        spec["locations"] = self.locations


class _NullSink:
    """Replaces a payload's file when a pickle is only attempted, to find an error."""

    def write(self, data: bytes | bytearray) -> int:
        return len(data)

    def leave_in(self, buffer: pickle.PickleBuffer) -> bool:  # noqa: ARG002
        return False


MakePickler = Callable[..., Any]  # (file, *classes to mix in)


class _Spawning:
    """The process being spawned, as reducers see it; collects the descriptors to send along."""

    DupFd = InheritedFd

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1


@contextmanager
def pickled_call(launch: Launch) -> Iterator[Pickled]:
    """Provide the pickled fn and args while the block starts ranks with them.

    Raises:
        Exception: what pickling raised, with a note that names the argument and the remedies.
        pickle.PicklingError: fn or args are defined in a module that ranks cannot import.
    """
    file = PayloadFile()
    try:
        yield _pickle_call(launch, file)
    finally:
        file.close()


def _pickle_call(launch: Launch, file: PayloadFile) -> Pickled:
    locations, made = locate(launch)
    if made:  # a rank would not find them by name
        return _pickle_by_value(launch, file, locations, made)
    try:
        fds = _dump(launch, file, _make_pickler)
    except Exception as error:
        return _pickle_by_value(launch, file, locations, made, error)
    main = find_import(vars(sys.modules["__main__"])) if file.names_main else None
    if main is None and file.names_main:
        return _pickle_by_value(launch, file, locations, made)
    if main is not None:  # for queues: this process unpickles by this name what ranks put in
        sys.modules["__mp_main__"] = sys.modules["__main__"]
    return Pickled(file, fds, main, {}, locations)


def _pickle_by_value(
    launch: Launch,
    file: PayloadFile,
    locations: Locations,
    made: frozenset[str],
    error: Exception | None = None,
) -> Pickled:
    """Pickle by value, if cloudpickle is installed, what plain pickle or an import in ranks cannot handle."""
    from procession._rank import by_value

    script = by_value.Script(unwrap(launch.fn)[0])
    if not by_value.has_cloudpickle() and not (script.apart and script.main):
        if error is None:
            raise _refuse(launch, made)
        _blame(error, launch, _make_pickler)
        raise error

    def make(to: PayloadFile | _NullSink, *_: type) -> Any:
        return by_value.make_pickler(to, to.leave_in, _make_pickler(to).dispatch_table, script)

    file.restart()
    with by_value.modules_by_value(made):
        try:
            fds = _dump(launch, file, make)
        except Exception as second:
            _blame(second, launch, make)
            raise
    main = script.main if file.names_main else None
    return Pickled(file, fds, main, _sources_without_files(), locations, made)


def _refuse(launch: Launch, made: frozenset[str]) -> pickle.PicklingError:
    if made:
        what = f"in module {min(made)!r}, which ranks cannot import because it was made at run time"
    else:
        what = (
            "in __main__, which ranks cannot import because it was read from a notebook, a REPL, -c or "
            "standard input, or is the __main__.py of a package or an archive"
        )
    return pickle.PicklingError(
        f"fn or args are defined {what}; for start method {launch.start_method!r}, define them in a module "
        "that is a file, or install cloudpickle: pip install cloudpickle; or use "
        "start_method='fork'"
    )


def _dump(launch: Launch, file: PayloadFile, make: MakePickler) -> list[int]:
    with _spawning() as fds:
        make(file).dump((launch.fn, launch.args))
        return list(fds)


@contextmanager
def _spawning() -> Iterator[list[int]]:
    """Let reducers send descriptors along; provide the list to which they add these."""
    spawning: Any = _Spawning()
    multiprocessing.context.set_spawning_popen(spawning)
    try:
        yield spawning.fds
    finally:
        multiprocessing.context.set_spawning_popen(None)


def _make_pickler(file: PayloadFile | _NullSink, *mixed_in: type) -> Any:
    """Return a pickler with the reducers of `ForkingPickler.register`, of copyreg and of this module."""
    kind: Any = ForkingPickler
    if mixed_in:
        kind = type("Pickler", (*mixed_in, kind), {})
    pickler = kind(file, pickle.HIGHEST_PROTOCOL, True, file.leave_in)
    pickler.dispatch_table = ChainMap(pickler.dispatch_table, _REDUCERS)
    return pickler


def _reduce_array(values: array.array[Any]) -> Any:
    """Leave the content of a large array out of the pickle, which `array` itself does not do."""
    if type(values) is not array.array or len(values) * values.itemsize < OUT_OF_BAND:
        return values.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return make_array, (values.typecode, pickle.PickleBuffer(values))


def _reduce_view(view: memoryview) -> Any:
    """Pickle what a view shows; the rank gets a view of the same format, shape and writability."""
    form: Any = view.format
    memoryview(bytes(view.itemsize)).cast(form)  # a bad format fails here rather than in the rank
    content: memoryview | bytes | bytearray = view
    if not view.c_contiguous:
        content = view.tobytes() if view.readonly else bytearray(view)
    return make_view, (pickle.PickleBuffer(content), form, view.shape)


_REDUCERS: dict[type, Callable[[Any], Any]] = {array.array: _reduce_array, memoryview: _reduce_view}


def _blame(error: Exception, launch: Launch, make: MakePickler) -> None:
    """Add a note to a pickling error: which argument, which object in it, and the remedies."""
    from procession._rank.advice import advise
    from procession._rank.by_value import Watching

    for name, part in _list_parts(launch):
        pickler = make(_NullSink(), Watching)
        try:
            with _spawning():
                pickler.dump(part)
        except Exception as own:
            note_on(
                error,
                f"{name} ({type(part).__name__}) cannot be pickled, which start method "
                f"{launch.start_method!r} needs: {advise(part, pickler.last, own)}",
            )
            return


def _list_parts(launch: Launch) -> Iterator[tuple[str, Any]]:
    """Yield the parts that a launch pickles, under the names that its caller knows."""
    fn: Any = launch.fn
    own: list[tuple[Any, ...]] = []
    kwargs: dict[str, Any] = {}
    if isinstance(fn, CallPerRank):
        fn, own = fn.func, fn.args
    if isinstance(fn, partial) and fn.keywords:
        kwargs = fn.keywords
        fn = partial(fn.func, *fn.args) if fn.args else fn.func
    yield "fn", fn
    for index, arg in enumerate(launch.args):
        yield f"args[{index}]", arg
    for name, value in kwargs.items():
        yield f"kwargs[{name!r}]", value
    for rank, args in enumerate(own):
        yield from ((f"args[{index}] of rank {rank}", arg) for index, arg in enumerate(args))


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
