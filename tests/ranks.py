"""Functions that ranks call in the tests; every start method can import them from here."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from typing import Any

from procession.testing.cases import CASES
from procession.testing.scratch import Stage, state_of

LONG = 60  # seconds that a healthy rank works, far more than any test waits for it


def notes_on(error: BaseException) -> list[str]:
    """Return the notes of an exception; type checkers know them on Python 3.11 and later only."""
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
    """Fail in one rank, and work in the others."""
    if rank == failing:
        CASES[fault].act(Stage(".", LONG))
    work(rank)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(LONG)


def cascade(rank: int, event: Any) -> None:
    """Fail in rank 1, and in rank 0 as a consequence before rank 1 has ended."""
    if rank == 1:
        atexit.register(linger, event)
        raise ValueError("the root cause")
    event.wait()
    raise ConnectionResetError("secondary")


def linger(event: Any) -> None:
    event.set()
    time.sleep(LONG)


def die_in_cascade(rank: int, pids: Any, killer: int) -> None:
    """Die in rank 1; the others notice it at once and fail."""
    if rank == 1:
        for _ in range(3):
            pids.put(os.getpid())
        kill_self(killer)
    pid = pids.get()
    while state_of(pid) not in "ZX":
        time.sleep(0.001)
    raise ConnectionResetError("secondary")


def all_fail(rank: int, barrier: Any) -> None:
    barrier.wait()
    time.sleep(0.02 * rank)
    raise ValueError(f"of rank {rank}")


def stubborn(rank: int, ready: Any) -> None:
    """Ignore SIGTERM in rank 0, and fail in the other once it does."""
    if rank == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        time.sleep(LONG)
    ready.wait()
    raise ValueError("boom")


def stopped(rank: int, ready: Any) -> None:
    """Stop rank 0 by SIGSTOP, and fail in the other once it is stopped."""
    if rank == 0:
        ready.put(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(LONG)
    pid = ready.get()
    while state_of(pid) != "T":
        time.sleep(0.005)
    raise ValueError("boom")


def see_yourself(rank: int) -> dict[str, Any]:
    """Return what a rank sees of itself."""
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


def see_handlers(rank: int, *names: str) -> dict[str, str]:
    """Tell what a rank does about signals, as Python and as the kernel know it."""
    with open("/proc/self/status") as file:
        (caught,) = (int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    seen = {}
    for name in names or ("SIGTERM", "SIGTSTP", "SIGINT", "SIGHUP", "SIGCHLD"):
        number = getattr(signal, name)
        action = __import__("_signal").getsignal(number)
        in_c = caught >> (number - 1) & 1 and not callable(action)
        seen[name] = "in C" if in_c else str(action)
    return seen


def see_modules(rank: int) -> list[str]:
    return sorted(sys.modules)


def flush_late(rank: int, queue: Any, path: str) -> None:
    """Leave work for the exit: a queue's feeder thread, an exit handler, a buffered line."""

    def write() -> None:
        with open(f"{path}.{rank}", "w") as file:
            file.write("at exit")

    atexit.register(write)
    queue.put(b"x" * 300_000)
    print("a line without end", end="")


def raise_on_load() -> Any:
    raise ValueError("raised while unpickled")


class RaisesOnLoad:
    """An object that pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return raise_on_load, ()


class RaisesOnDump:
    """An object that raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("raised while pickled")


def nested(rank: int, start_method: str) -> list[Any]:
    from procession import run

    return run(give, (rank,), 2, start_method=start_method)


def start_from_daemon(rank: int) -> None:
    from procession import start_processes

    start_processes(nothing)
