"""A rank's last report arrives, shortened if it is long, at a bounded cost, whatever fn did to the rank."""

from __future__ import annotations

import array
import atexit
import builtins
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import tracemalloc
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
from procession._rank import wire
from procession._rank.report import LINKS, Reporter, describe
from procession.testing.times import patience
from scripts import run_program

LARGE = 100_000


def visit(rank: int) -> None:
    try:
        visit(rank)
    except Exception as error:
        raise RuntimeError(f"while visiting {rank}") from error


def test_the_traceback_of_an_endless_recursion_with_causes_arrives(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="while visiting 0") as caught:
        start_processes(visit, nprocs=1, start_method=start_method)
    text = caught.value.failures[0].traceback
    assert re.search(r"\[\.\.\.\]: [\d,]+ exceptions left out", text)
    assert "direct cause" in text
    assert text.endswith("RuntimeError: while visiting 0\n")


def link(error: BaseException, cause: BaseException, how: str) -> BaseException:
    setattr(error, how, cause)
    return error


def make_chain(length: int, how: str) -> ValueError:
    """Return the last exception of a chain; the texts of its ends are `first` and `last`."""
    error = ValueError("first")
    for number in range(length - 2):
        error = link(ValueError(f"number {number}"), error, how)  # type: ignore[assignment]
    return link(ValueError("last"), error, how)  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["__cause__", "__context__"])
@pytest.mark.parametrize("length", [2 * LINKS + 2, 50_000])
@pytest.mark.parametrize("limit", [200, sys.getrecursionlimit()])
def test_a_long_chain_is_shortened_to_its_ends(how: str, length: int, limit: int) -> None:
    error = make_chain(length, how)
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        begun = time.process_time()
        text = describe(error)
        spent = time.process_time() - begun
    finally:
        sys.setrecursionlimit(old)
    found = re.findall(r"^(?:ValueError|\[\.\.\.\]): (.*)$", text, re.MULTILINE)
    assert len(found) == 2 * LINKS + 1
    assert found[0] == "first"
    assert found[LINKS] == f"{length - 2 * LINKS:,} exceptions left out"
    assert found[-1] == "last"
    assert spent < patience(5)  # 50,000 links took 16 s
    assert describe(error) == text
    count, one = 0, error
    while one is not None:
        count, one = count + 1, getattr(one, how)
    assert count == length  # the exception has not changed


def test_a_chain_that_fits_is_shown_in_full() -> None:
    text = describe(make_chain(2 * LINKS + 1, "__cause__"))
    assert "left out" not in text
    assert text.count("ValueError: ") == 2 * LINKS + 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_long_chain_in_a_group_is_shortened_to_its_ends() -> None:
    kind: Any = vars(builtins)["ExceptionGroup"]
    group = kind("two", [make_chain(50_000, "__cause__"), KeyError("other")])
    begun = time.process_time()
    text = describe(group)
    assert time.process_time() - begun < patience(5)
    for part in (
        "first",
        f"{50_000 - 2 * LINKS:,} exceptions left out",
        "last",
        "KeyError: 'other'",
    ):
        assert part in text


def test_a_circle_of_exceptions_is_shown_once() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert describe(one).count("ValueError: o") == 2


class Bad:
    """An object whose pickling raises."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __getstate__(self) -> Any:
        raise self.kind


def give_bad(rank: int, kind: type[BaseException]) -> Bad:
    return Bad(kind)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError])
def test_a_result_that_cannot_be_pickled_does_not_fail_a_launch(
    start_method: str, kind: type[BaseException]
) -> None:
    context = start_processes(
        give_bad, (kind,), 1, join=False, collect_results=True, start_method=start_method
    )
    assert context.wait()
    with pytest.raises(ResultError, match=f"rank 0 .*cannot be pickled: {kind.__name__}"):
        context.results()


class Heavy(Exception):
    """An exception that holds more than its text shows."""

    def __init__(self, content: Any) -> None:
        super().__init__("heavy")
        self.content = content


HEAVY: dict[str, Callable[[], BaseException]] = {
    "bytes that cannot be decoded": lambda: UnicodeDecodeError(
        "utf-8", bytes(64 << 20), 0, 1, "why"
    ),
    "a str": lambda: Heavy("x" * (64 << 20)),
    "a str of another class": lambda: Heavy(Text("x" * (64 << 20))),
    "an array": lambda: Heavy(array.array("d", bytes(64 << 20))),
    "an int": lambda: Heavy(1 << (64 << 20)),
    "a bytearray": lambda: Heavy(bytearray(64 << 20)),
    "many": lambda: Heavy([bytes(1000) for _ in range(64 << 10)]),
    "a buffer": lambda: Heavy(Buffer(bytearray(64 << 20))),
}


class Text(str):
    """A subclass of str."""

    __slots__ = ()


class Buffer:
    """An object that hands its content over as a buffer, as arrays do."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce_ex__(self, protocol: Any) -> Any:
        import pickle

        return Buffer, (pickle.PickleBuffer(self.content),)


@pytest.mark.parametrize("name", HEAVY)
def test_an_exception_that_is_too_large_is_not_pickled(name: str) -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        error = HEAVY[name]()
        reporter = Reporter(theirs.fileno())
        tracemalloc.start()
        reporter.raised(error)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kind, _, fields = wire.decode(ours.recv(wire.LIMIT)) or (b"", 0, [])
    assert kind == wire.RAISED
    assert fields[3] == b""
    assert peak < 4 << 20


class Tee:
    def write(self, text: str) -> int:
        return len(text)


class Raising(Tee):
    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def write(self, text: str) -> int:
        raise self.kind("not to be written to")

    def flush(self) -> None:
        raise self.kind("not to be flushed")


def change_streams(rank: int, how: str) -> int:
    if how == "replaced":
        sys.stdout = sys.stderr = Tee()
    elif how == "detached":
        sys.stdout.detach()  # type: ignore[union-attr]
    elif how == "deleted":
        del sys.stdout, sys.stderr
    elif how == "no object":
        sys.stdout = 5
    else:
        sys.stdout = Raising(RuntimeError)
    return rank


@pytest.mark.parametrize("how", ["replaced", "detached", "deleted", "no object", "raising"])
def test_streams_that_cannot_be_flushed_are_no_failure(start_method: str, how: str) -> None:
    assert run(change_streams, (how,), 2, start_method=start_method) == [0, 1]


def exit_with_reason(rank: int, kind: type[BaseException]) -> None:
    sys.stderr = Raising(kind)
    sys.exit("the reason")


@pytest.mark.parametrize("kind", [OSError, ValueError, SystemExit, KeyboardInterrupt])
def test_the_reason_of_an_exit_arrives_although_stderr_raises(
    start_method: str, kind: type[BaseException]
) -> None:
    with pytest.raises(ProcessExitedException, match="exit code 1: the reason") as caught:
        start_processes(exit_with_reason, (kind,), 1, start_method=start_method)
    assert caught.value.exit_code == 1


def prevent_imports(rank: int, how: str) -> Any:
    """Make imports impossible; then return a large result, or fail."""
    if how == "chroot":
        os.chroot(os.environ["EMPTY"])
    elif how == "user":
        os.setegid(65534)
        os.seteuid(65534)
    sys.path[:] = []
    sys.path_importer_cache.clear()
    if rank == 1:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    return bytes(LARGE)


WAYS = ["no path", *(("chroot", "user") if os.geteuid() == 0 else ())]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("nprocs", [1, 2])
def test_a_rank_that_can_no_longer_import_still_reports(
    start_method: str, how: str, nprocs: int, tmp_path: Any
) -> None:
    env = {"EMPTY": str(tmp_path)}
    if nprocs == 1:
        assert run(prevent_imports, (how,), 1, start_method=start_method, env=env) == [bytes(LARGE)]
        return
    with pytest.raises(ProcessRaisedException, match="ValueError: second") as caught:
        run(prevent_imports, (how,), 2, start_method=start_method, env=env)
    assert "first" in caught.value.failures[0].traceback


def test_multiprocessing_is_no_stricter() -> None:
    """multiprocessing counts streams that cannot be flushed as a success, too."""
    process = multiprocessing.get_context("fork").Process(
        target=change_streams, args=(0, "replaced")
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


def fail_and_linger(rank: int) -> None:
    atexit.register(time.sleep, 60)
    raise ValueError("boom")


def test_exit_handlers_of_a_failed_rank_have_little_time(start_method: str) -> None:
    context = start_processes(fail_and_linger, nprocs=1, join=False, start_method=start_method)
    with pytest.raises(ProcessRaisedException):
        context.wait(grace_period=30)
    assert context.processes[0].exitcode == -signal.SIGALRM


class HangingOnce(Exception):
    """Waits for ever where it is pickled."""

    def __reduce__(self) -> Any:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
        return super().__reduce__()


def raise_kind(rank: int, kind: type[Exception]) -> None:
    raise kind("the cause")


def test_an_exception_whose_pickling_hangs_is_reported_as_text(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="the cause") as caught:
        start_processes(raise_kind, (HangingOnce,), 2, start_method=start_method)
    assert caught.value.failures[0].load_exception() is None


def close_all(rank: int, how: str) -> None:
    os.closerange(3, 1 << 20)
    if how == "raises":
        raise ValueError("the cause")


@pytest.mark.parametrize(
    ("how", "code", "told"),
    [("returns", 0, "closed the descriptor of its error channel"), ("raises", 1, "code 1")],
)
def test_a_rank_that_closes_its_channel_says_so_on_standard_error(
    start_method: str, how: str, code: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessExitedException, match=told) as caught:
        start_processes(close_all, (how,), 1, start_method=start_method)
    assert caught.value.exit_code == code
    printed = capfd.readouterr().err
    if start_method != "fork":  # pytest's sys.stderr is a file that the rank has closed
        assert "this rank cannot report: its code has closed its error channel" in printed
        assert ("ValueError: the cause" in printed) == (how == "raises")


def change_pid(rank: int) -> int:
    os.getpid = lambda: 1
    return rank


def test_a_rank_reports_although_getpid_is_replaced(start_method: str) -> None:
    assert run(change_pid, nprocs=2, start_method=start_method) == [0, 1]


def leave(rank: int, code: Any) -> None:
    sys.exit(code)


@pytest.mark.parametrize(("code", "status"), [(-1, 255), (True, 1), (300, 44), (3, 3)])
def test_a_number_of_sys_exit_stands_alone_in_the_message(code: Any, status: int) -> None:
    with pytest.raises(ProcessExitedException) as caught:
        start_processes(leave, (code,), 1, start_method="fork")
    assert str(caught.value).splitlines()[0] == f"process 0 terminated with exit code {status}"
    assert caught.value.exit_code == status


def test_a_rank_that_imports_little_reports_all_the_same(start_method: str) -> None:
    done = run_program("reports_with_few_imports.py", start_method)
    title = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[start_method]
    names = [f"{title}Process-{number}" for number in (1, 2)]
    assert done.stdout.splitlines() == [str(names), "[100000, 100000]"]


def test_a_script_means_the_same_in_ranks(start_method: str) -> None:
    done = run_program("evaluates_annotations.py", start_method)
    assert done.stdout == "True [True]\n"
