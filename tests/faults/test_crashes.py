"""Each kind of crash at each step that a value goes through, as in the tests of loky."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    ResultError,
    run,
    start_processes,
)

pytestmark = pytest.mark.faults


def crash_by_exception() -> None:
    raise ValueError("crashed")


def crash_by_exit() -> None:
    sys.exit(5)


def crash_by_c_exit() -> None:
    ctypes.CDLL(None)._exit(5)


def crash_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_by_segfault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


CRASHES: dict[str, tuple[Callable[[], None], type[Exception], int | None]] = {
    "exception": (crash_by_exception, ProcessRaisedException, None),
    "exit": (crash_by_exit, ProcessExitedException, 5),
    "C exit": (crash_by_c_exit, ProcessExitedException, 5),
    "signal": (crash_by_signal, ProcessExitedException, -signal.SIGKILL),
    "segfault": (crash_by_segfault, ProcessExitedException, -signal.SIGSEGV),
}


def crash(how: str) -> Any:
    CRASHES[how][0]()


class CrashesAtUnpickle:
    """Pickles; crashes the process that unpickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return crash, (self.how,)


class CrashesAtPickle:
    """Crashes the process that pickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        crash(self.how)
        return str, ()


def take(rank: int, value: Any) -> None:
    pass


def crash_in_rank(rank: int, how: str) -> None:
    crash(how)


def return_crashing(rank: int, how: str) -> Any:
    return CrashesAtPickle(how)


def raise_crashing(rank: int, how: str) -> None:
    raise ValueError(CrashesAtPickle(how))


@pytest.mark.parametrize("how", CRASHES)
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])  # fork unpickles nothing
def test_a_crash_while_arguments_are_unpickled_is_the_failure(start_method: str, how: str) -> None:
    assert_told(how, take, CrashesAtUnpickle(how), start_method)


@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_of_fn_is_the_failure(start_method: str, how: str) -> None:
    assert_told(how, crash_in_rank, how, start_method)


@pytest.mark.parametrize("how", [how for how in CRASHES if how not in ("exception", "exit")])
def test_a_crash_while_the_return_value_is_pickled_is_the_failure(
    start_method: str, how: str
) -> None:
    assert_told(how, return_crashing, how, start_method)


def assert_told(how: str, fn: Callable[..., Any], argument: Any, start_method: str) -> None:
    _, kind, code = CRASHES[how]
    with pytest.raises(kind) as caught:
        run(fn, (argument,), 2, start_method=start_method)
    error: Any = caught.value
    if kind is ProcessRaisedException:
        assert "ValueError: crashed" in str(error)
    else:
        assert error.exit_code == code


@pytest.mark.parametrize(("how", "message"), [("exception", "ValueError: crashed"), ("exit", "5")])
def test_an_exception_while_the_return_value_is_pickled_is_no_failure_of_the_launch(
    start_method: str, how: str, message: str
) -> None:
    with pytest.raises(ResultError, match=f"cannot be pickled: .*{message}"):
        run(return_crashing, (how,), 1, start_method=start_method)


@pytest.mark.parametrize("how", [how for how in CRASHES if how != "exception"])
def test_a_return_value_is_not_pickled_unless_results_are_collected(
    start_method: str, how: str
) -> None:
    start_processes(return_crashing, (how,), 2, start_method=start_method)


@pytest.mark.parametrize("how", ["exception", "exit"])
def test_an_exception_that_cannot_be_pickled_is_raised_with_its_text(
    start_method: str, how: str
) -> None:
    """The caller still gets the text of the exception."""
    with pytest.raises(ProcessRaisedException, match="CrashesAtPickle object at") as caught:
        start_processes(raise_crashing, (how,), 2, start_method=start_method)
    assert caught.value.failures[0].load_exception() is None


@pytest.mark.parametrize("how", ["exception", "exit"])
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_crash_while_an_argument_is_pickled_is_raised(start_method: str, how: str) -> None:
    """It crashes in the caller, and its own exception is raised."""
    with pytest.raises(ValueError if how == "exception" else SystemExit):
        start_processes(take, (CrashesAtPickle(how),), 2, start_method=start_method)


def test_a_crash_while_a_return_value_is_unpickled_is_raised_by_results(start_method: str) -> None:
    """It crashes in the caller, which asked for results; the launch itself succeeded."""
    context = start_processes(
        give_crashing,
        ("exception",),
        1,
        join=False,
        collect_results=True,
        start_method=start_method,
    )
    assert context.wait()
    with pytest.raises(ResultError, match="cannot be unpickled: ValueError: crashed"):
        context.results()


def give_crashing(rank: int, how: str) -> Any:
    return CrashesAtUnpickle(how)
