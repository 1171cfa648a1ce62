"""The launchers that side_by_side.py compares, each called as its documentation says.

As a script, ``peers.py PEER CASE FOLDER BUSY``, this module is the caller of one of them.  It writes its
report into the folder, and waits there for a cue to exit.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from verdicts import explain, judge_error, shorten

from procession.testing.cases import CASES, RANKS, Case
from procession.testing.faults import work
from procession.testing.scratch import Stage
from ranks import RaisesOnLoad

Function = Callable[..., object]
Call = Callable[[Function, Sequence[Any], Callable[[], None]], None]
"""Calls the function in each rank, with the rank first; says when it knows of an error, if it can."""


@dataclass(frozen=True)
class Peer:
    """A launcher with a start method.

    ``module`` is its name for imports, ``package`` its name for pip.  ``pickles`` says whether it pickles
    arguments, ``returns`` whether the call must return the values that ranks return.
    """

    call: Call
    module: str
    package: str = ""
    pickles: bool = True
    returns: bool = False

    def is_installed(self) -> bool:
        """Return whether the module can be imported here."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None


def procession(start_method: str) -> Call:
    """Call procession without its fork check, whose warnings would not concern the case."""

    def call(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
        options = {"fork_check": "off"} if start_method == "fork" else None
        launcher: Any = importlib.import_module("procession")
        launcher.start_processes(fn, args, RANKS, start_method=start_method, options=options)

    return call


def torch(start_method: str) -> Call:
    """Call torch.multiprocessing."""

    def call(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
        launcher: Any = importlib.import_module("torch.multiprocessing")
        launcher.start_processes(fn, args=args, nprocs=RANKS, start_method=start_method)

    return call


def elastic(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
    """Call torch elastic's launcher of functions, and raise as its agent does."""
    launcher: Any = importlib.import_module("torch.distributed.elastic.multiprocessing")
    errors: Any = importlib.import_module("torch.distributed.elastic.multiprocessing.errors")
    context = launcher.start_processes(
        name="ranks",
        entrypoint=fn,
        args={rank: (rank, *args) for rank in range(RANKS)},
        envs={rank: {"LOCAL_RANK": str(rank)} for rank in range(RANKS)},
        logs_specs=launcher.DefaultLogsSpecs(),
        start_method="spawn",
    )
    try:
        result = context.wait()
        if result.is_failed():
            raise errors.ChildFailedError("ranks", result.failures)
    finally:
        context.close()


def futures(start_method: str) -> Call:
    """Call concurrent.futures."""

    def call(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
        multiprocessing = importlib.import_module("multiprocessing")
        context = multiprocessing.get_context(start_method)
        with ProcessPoolExecutor(RANKS, mp_context=context) as pool:
            submit(pool, fn, args, known)

    return call


def loky(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
    """Call loky, and kill its workers in the end."""
    pool = importlib.import_module("loky").ProcessPoolExecutor(RANKS)
    try:
        submit(pool, fn, args, known)
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def submit(pool: Executor, fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
    """Submit one call for each rank to a pool, and raise the first error."""
    pending = [pool.submit(fn, rank, *args) for rank in range(RANKS)]
    try:
        for future in as_completed(pending):
            future.result()
    except BaseException:
        known()
        raise


def mpire(fn: Function, args: Sequence[Any], known: Callable[[], None]) -> None:
    """Call mpire with ranks that are no daemons: some faults need children of multiprocessing."""
    launcher: Any = importlib.import_module("mpire")
    with launcher.WorkerPool(RANKS, start_method="fork", daemon=False) as pool:
        try:
            pool.map(fn, [(rank, *args) for rank in range(RANKS)], chunk_size=1)
        except BaseException:
            known()
            raise


_TORCH = "torch.multiprocessing", "torch"
_ELASTIC = "torch.distributed.elastic.multiprocessing", "torch"
PEERS = {
    "procession:fork": Peer(procession("fork"), "procession", ".", pickles=False),
    "procession:spawn": Peer(procession("spawn"), "procession", "."),
    "procession:forkserver": Peer(procession("forkserver"), "procession", "."),
    "torch:fork": Peer(torch("fork"), *_TORCH, pickles=False),
    "torch:spawn": Peer(torch("spawn"), *_TORCH),
    "torch:forkserver": Peer(torch("forkserver"), *_TORCH),
    "elastic:spawn": Peer(elastic, *_ELASTIC, returns=True),
    "futures:fork": Peer(futures("fork"), "concurrent.futures", returns=True),
    "futures:spawn": Peer(futures("spawn"), "concurrent.futures", returns=True),
    "loky": Peer(loky, "loky", "loky", returns=True),
    "mpire:fork": Peer(mpire, "mpire", "mpire", returns=True),
}
_LOCK = "TypeError: cannot pickle '_thread.lock' object"
ARGUMENT, LOADED, RETURNED = (
    "argument does not pickle",
    "argument does not unpickle",
    "result does not pickle",
)
ALL_CASES = {
    **CASES,
    ARGUMENT: Case(work, text=_LOCK),
    LOADED: Case(work, text="ValueError: raised while unpickled"),
    RETURNED: Case(lambda _: None, "ok", text=_LOCK, others=lambda _: None),
}


def why_not(peer: str, name: str) -> str:
    """Return why a case makes no sense for a peer, or an empty string."""
    if "root" in ALL_CASES[name].needs and os.getuid() != 0:
        return "only root can become nobody"
    if name in (ARGUMENT, LOADED) and not PEERS[peer].pickles:
        return "no argument is pickled"
    if name == "SIGINT" and peer == "mpire:fork":
        return "workers ignore SIGINT, so that nothing happens"
    return ""


def get_case(peer: str, name: str) -> Case:
    """Return a case for a peer, without its results if the peer returns none."""
    matters = name == RETURNED and PEERS[peer].returns
    return replace(ALL_CASES[name], outcome="raised") if matters else ALL_CASES[name]


class Patient(Stage):
    """A stage whose waits end when healthy ranks end, because a pool waits for all."""

    def await_cue(self, cue: str) -> str:
        """Wait for a cue, and return its text; raise FileNotFoundError if it does not come."""
        until = time.monotonic() + self.busy
        while not (self.folder / cue).exists() and time.monotonic() < until:
            time.sleep(0.001)
        return (self.folder / cue).read_text()


def perform(rank: int, name: str, folder: str, busy: float, burden: object = None) -> object:
    """Play one rank's part, as `cases.play` does; healthy ranks work just once."""
    case, stage = ALL_CASES[name], Patient(folder, busy)
    if rank != 1:
        case.others(stage)
        return None
    stage.tell("fault", str(time.monotonic()))
    case.act(stage)
    if case.outcome != "ok":
        stage.work()
    return threading.Lock() if name == RETURNED else None


def drive(peer: str, name: str, folder: str, busy: str) -> None:
    """Act as the caller: call a peer, report, and wait for the cue to exit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & and nohup ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    importlib.import_module(PEERS[peer].module)
    stage = Stage(folder, float(busy))
    burdens: dict[str, object] = {ARGUMENT: threading.Lock(), LOADED: RaisesOnLoad()}
    burden = [burdens[name]] if name in burdens else []
    times = {"called": time.monotonic()}
    stage.tell("called")
    error: BaseException | None = None
    try:
        PEERS[peer].call(
            perform,
            (name, folder, stage.busy, *burden),
            lambda: times.update(known=time.monotonic()),
        )
    except BaseException as raised:
        error = raised
    times["ended"] = time.monotonic()
    stage.tell("report", json.dumps(report(peer, name, error, times, stage)))
    stage.await_cue("leave")


def report(
    peer: str, name: str, error: BaseException | None, times: dict[str, float], stage: Stage
) -> dict[str, Any]:
    """Return what the caller saw, as fields of a `verdicts.Run`, and the verdict on the error."""
    text = "" if error is None else explain(error)
    fault = stage.folder / "fault"
    begun = float(fault.read_text()) if fault.exists() else times["called"]
    return {
        "seconds": times["ended"] - begun,
        "known": times["known"] - begun if "known" in times else None,
        "said": shorten(text),
        "about_error": judge_error(get_case(peer, name), name, error, text),
    }


if __name__ == "__main__":  # ranks find functions in the module peers, not in __main__
    importlib.import_module("peers").drive(*sys.argv[1:])
