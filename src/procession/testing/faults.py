"""What ranks do in the fault cases: each act takes a `Stage`, and most do not return."""

from __future__ import annotations

import atexit
import builtins
import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from procession.testing.scratch import Stage

Act = Callable[[Stage], None]


def work(stage: Stage) -> None:
    """Work, as a healthy rank does."""
    stage.work()


# What is raised


class NeedsTwo(Exception):
    """An exception that can be pickled but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class NoText(Exception):
    """An exception whose text cannot be composed."""

    def __str__(self) -> str:
        raise ValueError("no text")


class NothingWorks(Exception):
    """An exception that can be neither shown nor pickled."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class Interrupts(Exception):
    """An exception that raises KeyboardInterrupt when it is shown."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class OwnBase(BaseException):
    """A BaseException that is not an Exception."""


def raising(error: BaseException) -> Act:
    def act(stage: Stage) -> None:
        raise error

    return act


def raise_unpicklable(stage: Stage) -> None:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def raise_local(stage: Stage) -> None:
    class Local(Exception):
        pass

    raise Local("of a function")


def raise_recursion(stage: Stage) -> None:
    raise_recursion(stage)


def raise_chained(stage: Stage) -> None:
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def raise_group(stage: Stage) -> None:
    group: Any = builtins.__dict__["ExceptionGroup"]  # Python 3.11 and later
    raise group("the group", [ValueError("one of it"), TypeError("other of it")])


def raise_base_group(stage: Stage) -> None:
    group: Any = builtins.__dict__["BaseExceptionGroup"]
    raise group("the group", [KeyboardInterrupt("one of it")])


def raise_noted(stage: Stage) -> None:
    error: Any = ValueError("with a note")
    error.add_note("the note")
    raise error


def raise_huge(stage: Stage) -> None:
    raise ValueError("<" + "x" * (200 << 20) + ">")


# How a rank leaves


def leaving(code: object) -> Act:
    def act(stage: Stage) -> None:
        sys.exit(code)  # type: ignore[arg-type]

    return act


def leaving_at_once(code: int) -> Act:
    return lambda stage: os._exit(code)


def leave_in_c(stage: Stage) -> None:
    ctypes.CDLL(None).exit(7)


def dying_of(number: int) -> Act:
    def act(stage: Stage) -> None:
        if number not in (signal.SIGKILL, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        stage.work()

    return act


# What a rank lacks


def exhaust_memory(stage: Stage) -> None:
    _limit_memory()
    while True:
        _hoard.append(bytearray(1 << 22))


def hold_memory(stage: Stage) -> None:
    _limit_memory()
    chunk = 1 << 22
    while True:
        try:
            _hoard.append(bytearray(chunk))
        except MemoryError:
            if chunk == 64:
                raise
            chunk //= 2


_hoard: list[bytearray] = []


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))


def close_descriptors(stage: Stage) -> None:
    os.closerange(3, 512)
    raise ValueError("no descriptors")


def become_nobody(stage: Stage) -> None:
    os.setgid(65534)
    os.setuid(65534)
    raise ValueError("nobody")


def lose_temporary_folder(stage: Stage) -> None:
    folder = tempfile.mkdtemp(dir=stage.folder)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    os.rmdir(folder)
    raise ValueError("no temporary folder")


def lose_folder(stage: Stage) -> None:
    folder = tempfile.mkdtemp(dir=stage.folder)
    os.chdir(folder)
    os.rmdir(folder)
    raise ValueError("no folder")


def limiting(name: str, value: int) -> Act:
    def act(stage: Stage) -> None:
        resource.setrlimit(getattr(resource, name), (value, value))
        raise ValueError(f"under {name}")

    return act


def close_streams(stage: Stage) -> None:
    os.close(1)
    os.close(2)
    raise ValueError("no streams")


# What keeps a failed rank from ending


def keep_thread(stage: Stage) -> None:
    threading.Thread(target=stage.work).start()
    raise ValueError("a thread stays")


def keep_queue(stage: Stage) -> None:
    queue: Any = multiprocessing.Queue()
    queue.put(b"x" * (4 << 20))
    raise ValueError("a queue stays")


def keep_exit_handler(stage: Stage) -> None:
    atexit.register(stage.work)
    raise ValueError("a handler stays")


def keep_child(stage: Stage) -> None:
    child = multiprocessing.get_context("fork").Process(target=stage.work)
    child.start()
    stage.note(child.pid or 0)
    raise ValueError("a child stays")


# What ranks start


def fork_worker(stage: Stage) -> None:
    pid = os.fork()
    if pid == 0:
        stage.work()
        os._exit(0)
    stage.note(pid)


def start_program(stage: Stage, **options: Any) -> None:
    seconds = str(stage.busy)
    stage.note(subprocess.Popen(["sleep", seconds], **options).pid)


def start_session(stage: Stage) -> None:
    start_program(stage, start_new_session=True)


def fork_daemon(stage: Stage) -> None:
    """Fork twice, with a new session in between; close all descriptors, and do not exec."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stage.note(os.getpid())
            stage.tell("daemon")
            os.closerange(0, 1024)
            stage.work()
        os._exit(0)
    stage.await_cue("daemon")


def start_stranger(stage: Stage) -> None:
    """Start a program in a new session, with an empty environment, whose parent has ended."""
    text = (
        f"setsid sleep {stage.busy} >/dev/null 2>&1 </dev/null & echo $! > {stage.folder}/stranger"
    )
    subprocess.run(["/bin/sh", "-c", text], env={}, check=True)
    pid = int((stage.folder / "stranger").read_text())
    while os.getsid(pid) == os.getsid(0):  # setsid has not run yet
        time.sleep(0.001)
    stage.note(pid)


def start_grandchildren(stage: Stage) -> None:
    """Start a child by multiprocessing, which starts a program."""
    child = multiprocessing.get_context("fork").Process(target=_start_and_work, args=(stage,))
    child.start()
    stage.note(child.pid or 0)
    stage.await_cue("grandchild")


def _start_and_work(stage: Stage) -> None:
    start_program(stage)
    stage.tell("grandchild")
    stage.work()


def then(*acts: Act) -> Act:
    """Return an act that performs several in turn."""

    def act(stage: Stage) -> None:
        for one in acts:
            one(stage)

    return act


def once(cue: str, what: Act) -> Act:
    """Return an act that waits for a cue of another rank first."""
    return then(lambda stage: _drop(stage.await_cue(cue)), what)


def _drop(value: object) -> None:
    pass


BOOM = raising(ValueError("boom"))
