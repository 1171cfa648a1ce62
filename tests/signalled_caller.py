"""A caller that waits for two ranks while a test sends it signals; all leave cues in a folder."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any, NoReturn

import standin
from procession import ProcessContext, Signals, run, start_processes, stop_requested
from procession.testing.scratch import Stage


def save(rank: int, folder: str, what: str) -> None:
    """Wait for a signal, leave a cue and end."""
    stage = Stage(folder, 60)

    def leave(number: int, _: object) -> NoReturn:
        time.sleep(0.3)
        stage.tell(f"saved {rank}", signal.Signals(number).name)
        sys.exit(0)

    for name in what.split(","):
        if name == "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif name != "poll":
            signal.signal(signal.Signals[name], leave)
    stage.tell(f"rank {rank}", str(os.getpid()))
    while not (what == "poll" and stop_requested()):
        time.sleep(0.01)
    stage.tell(f"saved {rank}", "stop_requested")


def count(rank: int, folder: str) -> None:
    """Leave a cue, and wait for the cue to end."""
    stage = Stage(folder, 60)
    stage.tell(f"rank {rank}", str(os.getpid()))
    while stage.read("end") is None:
        time.sleep(0.005)


def start(stage: Stage, arguments: dict[str, Any]) -> ProcessContext:
    """Start ranks, supervise them once, and leave a cue: from then on signals are passed on to them."""
    context: ProcessContext = start_processes(join=False, **arguments)
    context.wait(timeout=0)
    stage.tell("waits")
    return context


async def await_ranks(stage: Stage, arguments: dict[str, Any]) -> None:
    await start(stage, arguments)


def leave_by_handler(*_: object) -> NoReturn:
    raise SystemExit(7)


def prepare(how: str, stage: Stage) -> None:
    """Install the caller's own signal handlers."""
    if how == "handler":
        signal.signal(signal.SIGTERM, leave_by_handler)
    if how == "asks":
        assert not stop_requested()
    if how == "flag":
        signal.signal(signal.SIGTERM, lambda *_: stage.tell("flag"))
    if how == "chain":
        signal.signal(signal.SIGUSR1, lambda *_: stage.tell("own handler"))


def main(method: str, how: str, what: str, folder: str) -> None:
    """Launch two ranks, and wait for them in one way."""
    stage = Stage(folder, 60)
    fn, args = (count, (folder,)) if what == "count" else (save, (folder, what))
    arguments: dict[str, Any] = {
        "fn": fn,
        "args": args,
        "nprocs": 2,
        "timeout": 2 if how == "timeout" else None,
        "start_method": method,
        "grace_period": 1 if "ignore" in what and how != "impatient" else None,
        "signals": Signals(forward=(signal.SIGUSR1,)) if what == "SIGUSR1" else None,
    }
    if method == "command":
        arguments["options"] = standin.options("")
    prepare(how, stage)
    if how == "run":
        run(**arguments)
    elif how == "await":
        asyncio.run(await_ranks(stage, arguments))
    elif how == "between":
        context = start(stage, arguments)
        time.sleep(60)
    elif how == "poll":
        context = start(stage, arguments)
        while not context.wait(timeout=0.05):
            time.sleep(0.05)
    elif how == "two":
        del arguments["grace_period"]
        first = start_processes(join=False, **arguments)
        os.mkdir(other := os.path.join(folder, "second"))
        start_processes(join=False, **(arguments | {"fn": count, "args": (other,)}))
        first.wait(timeout=0)  # from here on a signal is passed on
        stage.tell("waits")
        first.wait()
    else:
        start_processes(**arguments)
    if how == "asks":
        stage.tell("asked", str(stop_requested()))
    stage.tell("put back", str(signal.getsignal(signal.SIGTERM)))


if __name__ == "__main__":
    main(*sys.argv[1:])
