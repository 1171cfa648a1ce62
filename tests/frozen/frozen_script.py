"""The application that applications.py freezes; its arguments say what to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from importlib.util import find_spec

from procession import ProcessTimeoutError, __version__, list_backends, run, start_processes


def add(rank: int, base: int) -> tuple[int, str | None]:
    return base + rank, os.environ.get("COLOUR")


def enlarge(rank: int, size: int) -> bytes:
    return bytes([rank]) * size


def launch(rank: int, start_method: str) -> list[tuple[int, str | None]]:
    return run(add, (rank * 10,), nprocs=2, start_method=start_method)


def fail(rank: int) -> None:
    if rank == 1:
        raise ValueError("no such file")


def die(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(rank: int) -> None:
    signal.pause()


def main(act: str, start_method: str = "") -> None:
    if act == "return":
        print(run(add, (10,), nprocs=2, start_method=start_method, env={"COLOUR": "red"}))
        large = run(enlarge, (1 << 20,), nprocs=2, start_method=start_method)
        print([(len(value), value[0]) for value in large])
        print(run(launch, (start_method,), nprocs=2, start_method=start_method))
    elif act == "wait":
        try:
            start_processes(wait, nprocs=2, start_method=start_method, timeout=0.1)
        except ProcessTimeoutError as error:
            print(error)
    elif act == "list":
        print(__version__)
        for one in list_backends():
            print(one.name, one.origin, one.distribution, one.version, one.status, one.reason)
    elif act == "find":
        print([name for name in start_method.split(",") if find_spec(name)])
    else:
        start_processes({"fail": fail, "die": die}[act], nprocs=2, start_method=start_method)


def forget(start_method: str) -> None:
    """Start ranks without `freeze_support`, and print how many processes deep this one is."""
    depth = int(os.environ.get("DEPTH", "1"))
    print(depth, flush=True)
    os.environ["DEPTH"] = str(depth + 1)
    if depth < 4:
        main("fail", start_method)


if __name__ == "__main__":
    if "FORGETFUL" in os.environ:
        forget(os.environ["FORGETFUL"])
    else:
        multiprocessing.freeze_support()
        main(*sys.argv[1:])
