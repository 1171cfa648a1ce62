"""Functions made in functions, lambdas and local classes, in a script that ranks can import."""

from __future__ import annotations

import functools
import shutil
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import ProcessRaisedException, ResultError, run
from procession.testing.times import patience
from scripts import PROGRAMS, start

NEEDS_CLOUDPICKLE = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('cloudpickle')",
    reason="pip install cloudpickle",
)
BY_PICKLE = pytest.mark.parametrize("start_method", ["spawn", "forkserver"])


@NEEDS_CLOUDPICKLE
@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"], ["-m", "cProfile", "script.py"]])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "command"])
def test_nameless_functions_go_by_value_and_named_ones_by_name(
    method: str, how: list[str], tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "functions_by_value.py", tmp_path / "script.py")
    done = start(tmp_path, *how, method)
    assert "fine" in done.stdout, done.stderr


@BY_PICKLE
@pytest.mark.parametrize("what", ["run(lambda rank: rank", "run(make()", "run(print, (make(),)"])
def test_the_error_names_cloudpickle_where_it_is_missing(
    start_method: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(
        "from procession import run\ndef make():\n    def inner(rank): pass\n    return inner\n"
        f"if __name__ == '__main__':\n    {what}, start_method={start_method!r})\n"
    )
    done = start(tmp_path, "script.py", cloudpickle="without")
    assert done.returncode == 1
    part = "args[0]" if "print" in what else "fn"
    kind = "a lambda" if "lambda" in what else "defined inside a function"
    assert f"{part} (function) cannot be pickled, which start method {start_method!r} needs" in (
        done.stderr
    )
    assert f"it is {kind}: define it at the top of a module, install cloudpickle (pip install " in (
        done.stderr
    )
    assert "or use start_method='fork'" in done.stderr


@NEEDS_CLOUDPICKLE
def test_a_function_by_value_keeps_the_globals_of_its_module(start_method: str) -> None:
    STATE.append(start_method)
    try:
        expected = [start_method] if start_method == "fork" else []
        assert run(make_reader(), nprocs=2, start_method=start_method) == [(expected, True)] * 2
    finally:
        STATE.clear()


STATE: list[str] = []
UNPICKLABLE = threading.Lock()


def make_reader() -> Any:
    return lambda rank: (STATE, UNPICKLABLE.acquire(timeout=patience(1)))


@NEEDS_CLOUDPICKLE
def test_large_buffers_stay_out_of_a_pickle_by_value(start_method: str) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    array = numpy.arange(1_000_000)
    (seen,) = run(lambda rank, a: (a.sum(), a.flags.owndata), (array,), start_method=start_method)
    assert seen == (array.sum(), start_method == "fork")


@NEEDS_CLOUDPICKLE
def test_nameless_results_come_by_value(start_method: str) -> None:
    for one in run(make_nameless, nprocs=2, start_method=start_method):
        assert one() == "made in a rank"


def make_nameless(rank: int) -> Any:
    return lambda: "made in a rank"


def test_a_result_that_cannot_be_pickled_is_named(start_method: str) -> None:
    with pytest.raises(ResultError, match=r"cannot be pickled: TypeError: cannot pickle '_thread"):
        run(make_lock, start_method=start_method)


def make_lock(rank: int) -> Any:
    return threading.Lock()


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


@BY_PICKLE
@pytest.mark.parametrize(
    ("held", "text"),
    [
        (threading.Lock(), "it holds an object of type _thread.lock; lock belongs to one process"),
        (
            (n for n in range(3)),
            "it holds an object of type builtins.generator; generator belongs to one",
        ),
        (ranks.RaisesOnDump(), "pickling it raised ValueError: fix that"),
    ],
)
def test_the_advice_fits_the_obstacle(start_method: str, held: Any, text: str) -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        run(ranks.give, (Holder([held]),), start_method=start_method)
    message = "\n".join([str(caught.value), *ranks.notes_on(caught.value)])
    assert "args[0] (Holder) cannot be pickled" in message
    assert text in message
    assert "or use start_method='fork'" in message
    assert "top of a module" not in message  # that would not help


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def renamed(rank: int) -> None:
    pass


original, renamed = renamed, wrapped(renamed)


@BY_PICKLE
def test_a_name_that_refers_to_another_object_is_explained(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(Exception, match="not the same object") as caught:
        run(original, start_method=start_method)
    message = "\n".join([str(caught.value), *ranks.notes_on(caught.value)])
    assert "test_by_value.renamed is now another object" in message


@BY_PICKLE
@NEEDS_CLOUDPICKLE
def test_a_module_made_at_run_time_goes_by_value(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(monkeypatch)
    import cloudpickle

    (value,) = run(module.work, (module.Value(),), start_method=start_method)
    assert type(value) is module.Value
    assert not cloudpickle.list_registry_pickle_by_value()


@BY_PICKLE
def test_the_error_names_a_module_made_at_run_time(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(monkeypatch)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    text = "in module 'made_at_run_time', which ranks cannot import because it was made at run time"
    with pytest.raises(Exception, match=text):
        run(module.work, (1,), start_method=start_method)


def make_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("made_at_run_time")
    exec("def work(rank, value): return Value()\nclass Value: pass", vars(module))
    monkeypatch.setitem(sys.modules, "made_at_run_time", module)
    return module


@BY_PICKLE
def test_a_name_that_a_module_lacks_in_ranks_is_explained(start_method: str) -> None:
    vars(ranks)["added_late"] = late
    try:
        with pytest.raises(ProcessRaisedException) as caught:
            run(late, start_method=start_method)
    finally:
        del vars(ranks)["added_late"]
    assert "Can't get attribute 'added_late' on <module 'ranks'" in str(caught.value)
    assert "it was added at run time" in str(caught.value)


def late(rank: int) -> None:
    pass


late.__module__, late.__qualname__ = "ranks", "added_late"
