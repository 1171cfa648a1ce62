"""Launches in a process that gevent has patched; prints what becomes of the launches.

Arguments: the start method; "first" or "later" (after a launch, that is); the name of a function below; and
that function's own arguments.  A cue is a file that ranks wait for.
"""

# ruff: noqa: E402  # gevent patches before the imports that it is meant for

from __future__ import annotations

import sys

if "later" in sys.argv:
    import procession

    if __name__ == "__main__":
        procession.run(abs, nprocs=1, start_method="fork")

from gevent import monkey

monkey.patch_all()

import multiprocessing
import os
import signal
import subprocess
import threading
import time
import warnings
from typing import Any

import gevent

from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    ProcessTimeoutError,
    run,
    start_processes,
)
from procession._linux import syscalls

METHOD = sys.argv[1]
keywords: dict[str, Any] = {"nprocs": 2, "start_method": METHOD}
ticked: set[int] = set()


def work(rank: int, how: str = "", cue: str = "") -> Any:
    while cue and not os.path.exists(cue):
        gevent.sleep(0.01)
    if how == "nested":
        return run(work, **keywords)
    if how and rank == 1:
        fail(how)
    if how:
        time.sleep(60)
    return rank


def fail(how: str) -> None:
    if how == "raise":
        raise ValueError("as asked")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    if how == "interrupt":
        caller = multiprocessing.parent_process()
        assert caller is not None
        assert caller.pid is not None
        os.kill(caller.pid, signal.SIGINT)


def list_descriptors() -> set[str]:
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def list_ranks() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [pid for pid in file.read().split() if is_rank(pid)]


def is_rank(pid: str) -> bool:
    with open(f"/proc/{pid}/cmdline") as file:
        command = file.read()
    return not any(word in command for word in ("reaper", "server", "resource_tracker"))


def give_cue(cue: str) -> None:
    open(cue, "w").close()


def launch_in(place: str) -> None:
    """Launch with each outcome in the main greenlet, in another, in a thread or in gevent's pool."""
    subprocess.run(["true"])  # gevent watches a child: from here on it reaps them all
    if place != "pool":
        patched: Any = syscalls
        patched.pidfd_wait_status = lambda _: None  # as before Linux 6.15
        warnings.filterwarnings("error", "start_method='fork' is not safe")
    start_processes(work, **keywords)
    gevent.get_hub().threadpool.apply(int)
    before = list_descriptors()
    if place == "main":
        launch_each()
    elif place == "greenlet":
        gevent.spawn(launch_each).get()
    elif place == "thread":
        thread = threading.Thread(target=launch_each)
        thread.start()
        thread.join()
    else:
        gevent.get_hub().threadpool.apply(launch_each)
    print(list_ranks(), sorted(list_descriptors() - before))


def launch_each() -> None:
    print(attempt(""), attempt("nested"))
    print(attempt("raise"), attempt("kill"), attempt("exit"), sep=" / ")
    print(attempt("hang", timeout=0.5))


def attempt(how: str, **more: Any) -> Any:
    try:
        return run(work, (how,), **keywords, **{"timeout": 30, **more})
    except (ProcessRaisedException, ProcessExitedException) as error:
        last = str(error).strip().splitlines()[-1]
        return last.partition(": " if how == "raise" else " with ")[2]
    except ProcessTimeoutError as error:
        return type(error).__name__


def wait_in_greenlets(cue: str) -> None:
    """Wait for a launch in several greenlets, while another one gives the ranks their cue."""
    context = start_processes(work, ("", cue), join=False, collect_results=True, **keywords)
    waiting = [gevent.spawn(context.wait) for _ in range(3)]
    waiting.append(gevent.spawn(context.processes[0].join))
    gevent.sleep(0.01)
    give_cue(cue)
    print([one.get(timeout=30) for one in waiting], context.results())
    for _ in range(2 if METHOD == "spawn" else 20):
        context = start_processes(work, join=False, **keywords)
        waiting = [gevent.spawn(context.wait) for _ in range(3)]
        assert [one.get(timeout=30) for one in waiting] == [True] * 3


def stop_waiting() -> None:
    """End a wait by Ctrl-C, by a timeout of gevent's, and by the end of its greenlet."""
    try:
        run(work, ("interrupt",), **keywords)
    except KeyboardInterrupt:
        print("interrupted", list_ranks())
    try:
        with gevent.Timeout(0.5):
            run(work, ("hang",), **keywords)
    except gevent.Timeout:
        print("timed out", list_ranks())
    context = start_processes(work, ("hang",), join=False, **keywords)
    waiting = gevent.spawn(context.join)
    gevent.sleep(0.01)
    waiting.kill()
    print("killed", context.wait(0))
    gevent.spawn(context.terminate).get()
    print("ended", [one.exitcode for one in context.processes])
    launching = gevent.spawn(run, work, ("hang",), **keywords)
    gevent.sleep(0.5)
    launching.kill()
    print("left", list_ranks())


def run_greenlets_in_ranks() -> None:
    gevent.signal_handler(signal.SIGTERM, print, "the caller's")
    gevent.spawn(tick)
    launch_live_and_end()
    gevent.spawn(launch_live_and_end).get()
    print(ticked == {os.getpid()})


def tick() -> None:
    while True:
        ticked.add(os.getpid())
        gevent.sleep(0.001)


def launch_live_and_end() -> None:
    print(run(live, **{**keywords, "nprocs": 1}))
    try:
        run(end, **keywords)
    except ProcessExitedException as error:
        print(error.exit_code)


def live(rank: int) -> tuple[list[int], bytes, bool]:
    """Run greenlets, threads and a program; return what they made, and whether the caller's greenlet ran."""
    found: list[int] = []
    gevent.joinall([gevent.spawn(found.append, number) for number in range(2)])
    thread = threading.Thread(target=append_late, args=(found,))
    thread.start()
    thread.join()
    threading.Thread(target=print_late).start()  # its rank waits for it at the end
    output = subprocess.run(["echo", "hi"], stdout=subprocess.PIPE).stdout
    return found, output, os.getpid() in ticked


def append_late(found: list[int]) -> None:
    gevent.sleep(0.05)
    found.append(2)


def print_late() -> None:
    gevent.sleep(0.05)
    print("last", flush=True)


def end(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def launch_by_command() -> None:
    engine = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = [sys.executable, "-c", engine, "{agent}"]
    keywords.update(nprocs=1, options={"command": command})
    print(gevent.spawn(run, work, **keywords).get())
    try:
        run(abs, ("too many",), **keywords)
    except ProcessRaisedException as error:
        print("TypeError" in str(error))


def fork_while_one_waits(cue: str) -> None:
    waiting = gevent.spawn(run, work, ("", cue), **keywords)
    gevent.sleep(0.5)
    pid = os.fork()
    if pid == 0:
        gevent.sleep(0.05)
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
    give_cue(cue)
    print(waiting.get())


if __name__ == "__main__":
    globals()[sys.argv[3]](*sys.argv[4:])
