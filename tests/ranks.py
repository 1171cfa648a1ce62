"""What ranks do in the tests: functions at the top of a module that every start method can import."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

LONG = 60  # seconds that a healthy rank works: far longer than any test waits for it


def notes_on(error: BaseException) -> list[str]:
    """Return the notes of an exception, which type checkers know on Python 3.11 and later only."""
    return list(getattr(error, "__notes__", ()))


def nothing(rank: int) -> None:
    pass


def give(rank: int, *args: Any) -> tuple[Any, ...]:
    return rank, *args


def put(rank: int, queue: Any) -> None:
    queue.put(rank)


def work(rank: int) -> None:
    time.sleep(LONG)


def fail_in(rank: int, failing: int, fault: str) -> None:
    """Have one rank fail, and the others work."""
    if rank == failing:
        FAULTS[fault]()
    work(rank)


class NeedsTwo(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Unprintable(Exception):
    """Breaks whatever shows or pickles it."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise RuntimeError("reduce")


class OwnBase(BaseException):
    """Not an Exception."""


def raise_(error: BaseException) -> None:
    raise error


def raise_local() -> None:
    class Local(Exception):
        pass

    raise Local("of a function")


def raise_chained() -> None:
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def raise_recursion() -> None:
    raise_recursion()


def raise_group() -> None:
    group: Any = builtins.__dict__["ExceptionGroup"]  # Python 3.11 and later
    raise group("the group", [ValueError("one of it"), TypeError("other of it")])


def raise_base_group() -> None:
    group: Any = builtins.__dict__["BaseExceptionGroup"]
    raise group("the group", [KeyboardInterrupt("one of it")])


def raise_unpicklable() -> None:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def exhaust_memory(*, hold: bool) -> None:
    import resource

    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
    kept = []
    chunk = 1 << 22
    while True:
        try:
            kept.append(bytearray(chunk))
        except MemoryError:
            if not hold:
                raise
            if chunk == 64:
                FAULTS["held"] = kept  # type: ignore[assignment]
                raise
            chunk //= 2


def close_descriptors() -> None:
    os.closerange(3, 512)
    raise ValueError("no descriptors")


def limit(name: str, value: int) -> None:
    import resource

    resource.setrlimit(getattr(resource, name), (value, value))
    raise ValueError(f"under {name}")


def close_streams() -> None:
    os.close(1)
    os.close(2)
    raise ValueError("no streams")


def lose_folder() -> None:
    import tempfile

    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    os.environ["TMPDIR"] = folder
    raise ValueError("no folder")


def become_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)
    raise ValueError("nobody")


def keep_thread() -> None:
    threading.Thread(target=time.sleep, args=(LONG,)).start()
    raise ValueError("a thread stays")


def keep_exit_handler() -> None:
    atexit.register(time.sleep, LONG)
    raise ValueError("a handler stays")


def keep_queue() -> None:
    import multiprocessing

    queue: Any = multiprocessing.Queue()
    queue.put(b"x" * (4 << 20))
    raise ValueError("a queue stays")


def keep_child() -> None:
    import multiprocessing

    multiprocessing.get_context("fork").Process(target=time.sleep, args=(LONG,)).start()
    raise ValueError("a child stays")


def keep_fork() -> None:
    if os.fork() == 0:
        time.sleep(LONG)
        os._exit(0)
    raise ValueError("a fork stays")


def keep_fork_and_exit() -> None:
    if os.fork() == 0:
        time.sleep(LONG)
        os._exit(0)
    os._exit(7)


def keep_program() -> None:
    subprocess.Popen(["sleep", str(LONG)])
    raise ValueError("a program stays")


def kill_self(number: int) -> None:
    signal.signal(number, signal.SIG_DFL) if number not in (
        signal.SIGKILL,
        signal.SIGSTOP,
    ) else None
    os.kill(os.getpid(), number)
    time.sleep(LONG)


FAULTS = {
    "ValueError": lambda: raise_(ValueError("boom")),
    "unpicklable": raise_unpicklable,
    "needs two": lambda: raise_(NeedsTwo("for", "two")),
    "local": raise_local,
    "unprintable": lambda: raise_(Unprintable()),
    "recursion": raise_recursion,
    "chained": raise_chained,
    "group": raise_group,
    "base group": raise_base_group,
    "surrogates": lambda: raise_(ValueError("odd \udc80 and \0 end")),
    "200 MB": lambda: raise_(ValueError("<" + "x" * (200 << 20) + ">")),
    "exit text": lambda: sys.exit("the reason"),
    "exit 3": lambda: sys.exit(3),
    "exit 256": lambda: sys.exit(256),
    "KeyboardInterrupt": lambda: raise_(KeyboardInterrupt()),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "GeneratorExit": lambda: raise_(GeneratorExit()),
    "own base": lambda: raise_(OwnBase("own")),
    "cancelled": lambda: raise_(asyncio.CancelledError()),
    "_exit 0": lambda: os._exit(0),
    "_exit 7": lambda: os._exit(7),
    "SIGKILL": lambda: kill_self(signal.SIGKILL),
    "SIGSEGV": lambda: kill_self(signal.SIGSEGV),
    "SIGABRT": lambda: kill_self(signal.SIGABRT),
    "SIGTERM": lambda: kill_self(signal.SIGTERM),
    "SIGPIPE": lambda: kill_self(signal.SIGPIPE),
    "real-time": lambda: kill_self(signal.SIGRTMIN + 3),
    "memory": lambda: exhaust_memory(hold=False),
    "memory held": lambda: exhaust_memory(hold=True),
    "descriptors": close_descriptors,
    "file size": lambda: limit("RLIMIT_FSIZE", 16),
    "open files": lambda: limit("RLIMIT_NOFILE", 3),
    "streams": close_streams,
    "folder": lose_folder,
    "nobody": become_nobody,
    "thread": keep_thread,
    "exit handler": keep_exit_handler,
    "queue": keep_queue,
    "child": keep_child,
    "fork": keep_fork,
    "fork, exit 7": keep_fork_and_exit,
    "program": keep_program,
}


def cascade(rank: int, event: Any) -> None:
    """Have rank 1 fail, and rank 0 fail in consequence, before rank 1 has left."""
    if rank == 1:
        atexit.register(linger, event)
        raise ValueError("the root cause")
    event.wait()
    raise ConnectionResetError("secondary")


def linger(event: Any) -> None:
    event.set()
    time.sleep(LONG)


def die_in_cascade(rank: int, pids: Any, killer: int) -> None:
    """Have rank 1 die, and the others notice at once."""
    if rank == 1:
        for _ in range(3):
            pids.put(os.getpid())
        kill_self(killer)
    pid = pids.get()
    while _state(pid) not in "ZX":
        time.sleep(0.001)
    raise ConnectionResetError("secondary")


def all_fail(rank: int, barrier: Any) -> None:
    barrier.wait()
    time.sleep(0.02 * rank)
    raise ValueError(f"of rank {rank}")


def stubborn(rank: int, ready: Any) -> None:
    """Rank 0 ignores SIGTERM; the other fails once it does."""
    if rank == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        time.sleep(LONG)
    ready.wait()
    raise ValueError("boom")


def stopped(rank: int, ready: Any) -> None:
    """Rank 0 is stopped by SIGSTOP; the other fails once it is."""
    if rank == 0:
        ready.put(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(LONG)
    pid = ready.get()
    while _state(pid) != "T":
        time.sleep(0.005)
    raise ValueError("boom")


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def see_yourself(rank: int) -> dict[str, Any]:
    """Tell what a rank sees of itself."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    own = multiprocessing.current_process()
    return {
        "name": own.name,
        "daemon": own.daemon,
        "parent": parent.pid,
        "parent alive": parent.is_alive(),
        "alive": own.is_alive(),
        "pid": own.pid == os.getpid(),
        "method": multiprocessing.get_start_method(),
        "authkey": bytes(own.authkey),
        "stdin": sys.stdin.read(),
        "group": os.getpgid(0) == os.getpid(),
    }


def see_environment(rank: int) -> dict[str, str]:
    return dict(os.environ)


def see_modules(rank: int) -> list[str]:
    return sorted(sys.modules)


def flush_late(rank: int, queue: Any, path: str) -> None:
    """Leave things for the exit to do: a queue's feeder thread, a handler, a buffered line."""

    def write() -> None:
        with open(f"{path}.{rank}", "w") as file:
            file.write("at exit")

    atexit.register(write)
    queue.put(b"x" * 300_000)
    print("a line without end", end="")


def raise_on_load() -> Any:
    raise ValueError("raised while unpickled")


class RaisesOnLoad:
    """Pickles; raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return raise_on_load, ()


class RaisesOnDump:
    """Does not pickle."""

    def __reduce__(self) -> Any:
        raise ValueError("raised while pickled")


def nested(rank: int, start_method: str) -> list[Any]:
    from procession import run

    return run(give, (rank,), 2, start_method=start_method)


def start_from_daemon(rank: int) -> None:
    from procession import start_processes

    start_processes(nothing)
