"""Launches in processes that gevent or eventlet has patched, whoever waits for them.

Promise: Launches do not disturb each other.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

import procession
from scripts import execute

if find_spec("gevent") is None:  # imported here, it would follow each fork to come
    pytest.skip("could not import 'gevent' (pip install gevent)", allow_module_level=True)

HEAD = """
import sys

if "later" in sys.argv:
    import procession

    if __name__ == "__main__":
        procession.run(abs, nprocs=1, start_method="fork")
from gevent import monkey

monkey.patch_all()
import multiprocessing, os, signal, subprocess, threading, time, warnings

import gevent

from procession import (
    ProcessExitedException, ProcessRaisedException, ProcessTimeoutError, run, start_processes
)
from procession._linux import syscalls

METHOD = sys.argv[1]
keywords = {"nprocs": 2, "start_method": METHOD}


def work(rank, how="", cue=""):
    if cue:
        while not os.path.exists(cue):
            gevent.sleep(0.01)
    if how == "nested":
        return run(work, **keywords)
    if how and rank == 1:
        if how == "raise":
            raise ValueError("as asked")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(7)
        if how == "interrupt":
            os.kill(multiprocessing.parent_process().pid, signal.SIGINT)
    if how:
        time.sleep(60)
    return rank


def list_descriptors():
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def list_ranks():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [pid for pid in file.read().split() if is_rank(pid)]


def is_rank(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        command = file.read()
    return not any(word in command for word in ("reaper", "server", "resource_tracker"))
"""


OUTCOMES = """
def attempt(how, **more):
    try:
        return run(work, (how,), **keywords, **{"timeout": 30, **more})
    except (ProcessRaisedException, ProcessExitedException) as error:
        return str(error).strip().splitlines()[-1].partition(" with " if how != "raise" else ": ")[2]
    except ProcessTimeoutError as error:
        return type(error).__name__


def launch():
    print(attempt(""), attempt("nested"))
    print(attempt("raise"), attempt("kill"), attempt("exit"), sep=" / ")
    print(attempt("hang", timeout=0.5))


def main():
    subprocess.run(["true"])  # gevent watches a child: from here on it reaps them all
    if sys.argv[3] != "pool":
        syscalls.pidfd_wait_status = lambda pidfd: None  # as before Linux 6.15
        warnings.filterwarnings("error", "start_method='fork' is not safe")
    start_processes(work, **keywords)
    gevent.get_hub().threadpool.apply(int)
    before = list_descriptors()
    if sys.argv[3] == "main":
        launch()
    elif sys.argv[3] == "greenlet":
        gevent.spawn(launch).get()
    elif sys.argv[3] == "thread":
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    else:
        gevent.get_hub().threadpool.apply(launch)
    print(list_ranks(), sorted(list_descriptors() - before))


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("order", "place"),
    [("first", "main"), ("first", "greenlet"), ("later", "thread"), ("first", "pool")],
)
def test_results_causes_and_deadlines(
    start_method: str, order: str, place: str, tmp_path: Path
) -> None:
    """Patched before or after the import; from greenlets and from a thread that is one."""
    assert execute(tmp_path, HEAD + OUTCOMES, start_method, order, place).splitlines() == [
        "[0, 1] [[0, 1], [0, 1]]",
        "as asked / signal SIGKILL / exit code 7",
        "ProcessTimeoutError",
        "[] []",
    ]


def test_other_greenlets_run_while_one_waits(start_method: str, tmp_path: Path) -> None:
    """The ranks wait for what another greenlet does; several greenlets wait for one launch."""
    script = """
if __name__ == "__main__":
    cue = __file__ + ".cue"
    context = start_processes(work, ("", cue), join=False, collect_results=True, **keywords)
    waiting = [gevent.spawn(context.wait) for _ in range(3)]
    waiting.append(gevent.spawn(context.processes[0].join))
    gevent.sleep(0.01)
    open(cue, "w").close()
    print([one.get(timeout=30) for one in waiting], context.results())
    for _ in range(2 if METHOD == "spawn" else 20):
        context = start_processes(work, join=False, **keywords)
        waiting = [gevent.spawn(context.wait) for _ in range(3)]
        assert [one.get(timeout=30) for one in waiting] == [True] * 3
"""
    assert execute(tmp_path, HEAD + script, start_method) == "[True, True, True, None] [0, 1]\n"


def test_whoever_waits_can_be_stopped(start_method: str, tmp_path: Path) -> None:
    """By Ctrl-C, by a timeout of gevent's, by the end of the greenlet."""
    script = """
if __name__ == "__main__":
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
"""
    assert execute(tmp_path, HEAD + script, start_method).splitlines() == [
        "interrupted []",
        "timed out []",
        "killed False",
        "ended [-15, -15]",
        "left []",
    ]


GREENLETS = """
ticked = set()


def tick():
    while True:
        ticked.add(os.getpid())
        gevent.sleep(0.001)


def live(rank):
    found = []
    gevent.joinall([gevent.spawn(found.append, number) for number in range(2)])
    thread = threading.Thread(target=lambda: (gevent.sleep(0.05), found.append(2)))
    thread.start()
    thread.join()
    left = threading.Thread(target=lambda: (gevent.sleep(0.05), print("last", flush=True)))
    left.start()  # and waited for at the end
    output = subprocess.run(["echo", "hi"], stdout=subprocess.PIPE).stdout
    return found, output, os.getpid() in ticked


def end(rank):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def launch():
    print(run(live, **{**keywords, "nprocs": 1}))
    try:
        run(end, **keywords)
    except ProcessExitedException as error:
        print(error.exit_code)


if __name__ == "__main__":
    gevent.signal_handler(signal.SIGTERM, print, "the caller's")
    ticking = gevent.spawn(tick)
    launch()
    gevent.spawn(launch).get()
    print(ticked == {os.getpid()})
"""


def test_ranks_run_greenlets_and_threads(start_method: str, tmp_path: Path) -> None:
    """Of their own, and none of their caller's; programs too."""
    lines = ["last", "[([0, 1, 2], b'hi\\n', False)]", "-15"]
    assert execute(tmp_path, HEAD + GREENLETS, start_method).splitlines() == [
        *lines,
        *lines,
        "True",
    ]


def test_ranks_of_a_command(tmp_path: Path) -> None:
    """Whose agents report to a socket of the caller's."""
    script = """
ENGINE = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"

if __name__ == "__main__":
    command = [sys.executable, "-c", ENGINE, "{agent}"]
    keywords.update(nprocs=1, options={"command": command})
    print(gevent.spawn(run, work, **keywords).get())
    try:
        run(abs, ("too many",), **keywords)
    except ProcessRaisedException as error:
        print("TypeError" in str(error))
"""
    printed = execute(tmp_path, HEAD + script, "command")
    assert printed == "[0]\nTrue\n"


def test_a_fork_of_a_process_that_waits(start_method: str, tmp_path: Path) -> None:
    """Its copy of the greenlet that waits has no ranks, and does not keep it from going on."""
    script = """
if __name__ == "__main__":
    cue = __file__ + ".cue"
    waiting = gevent.spawn(run, work, ("", cue), **keywords)
    gevent.sleep(0.5)
    pid = os.fork()
    if pid == 0:
        gevent.sleep(0.05)
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
    open(cue, "w").close()
    print(waiting.get())
"""
    assert execute(tmp_path, HEAD + script, start_method) == "0\n[0, 1]\n"


def test_nothing_of_it_is_imported_elsewhere(start_method: str, tmp_path: Path) -> None:
    script = """
import sys

import procession


def look(rank):
    return [name for name in ("procession._python.greenlets", "greenlet") if name in sys.modules]


if __name__ == "__main__":
    print(procession.run(look, start_method=sys.argv[1]), look(0))
"""
    assert execute(tmp_path, script, start_method) == "[[]] []\n"


EVENTLET = """
import warnings

warnings.simplefilter("ignore")
import eventlet

eventlet.monkey_patch()
import os, threading, time

from procession import ProcessRaisedException, ProcessTimeoutError, run


def work(rank, how=""):
    while how.startswith("/") and not os.path.exists(how):
        time.sleep(0.01)
    if how == "raise":
        raise ValueError("as asked")
    if how == "hang":
        time.sleep(60)
    return rank


def launch():
    waiting = [eventlet.spawn(run, work, (__file__ + ".cue",), nprocs=2) for _ in range(2)]
    eventlet.sleep(0.01)
    open(__file__ + ".cue", "w").close()
    print([one.wait() for one in waiting])
    for how in ("raise", "hang"):
        try:
            run(work, (how,), nprocs=2, timeout=5)
        except (ProcessRaisedException, ProcessTimeoutError) as error:
            print(type(error).__name__, "as asked" in str(error))


if __name__ == "__main__":
    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
"""


def test_eventlet(tmp_path: Path) -> None:
    """By `spawn` alone: its authors advise against forks."""
    if find_spec("eventlet") is None:  # imported here, it would warn of each fork to come
        pytest.skip("could not import 'eventlet' (pip install eventlet)")
    assert execute(tmp_path, EVENTLET).splitlines() == [
        "[[0, 1], [0, 1]]",
        "ProcessRaisedException True",
        "ProcessTimeoutError False",
    ]


BLOCKING = {
    *("os.close", "os.read", "os.waitpid", "os.posix_spawn", "os.fork", "time.sleep"),
    *("import socket", "import select", "threading.Lock", "threading.RLock"),
}
"""What gevent or eventlet replaces, and `procession._python.unpatched` has as it was."""

EXEMPT = (
    "cli/",
    "remote/",  # whose threads and sockets are no part of a launch on this host
    "testing/",
    "_rank/",  # which imports less
    "_cleanup/leave_launch.py",  # in a process that a plugin starts
    "_cleanup/reaper.py",  # a process without user code
    "_forkserver/client.py",  # its locks are never held across a switch
    "_linux/memory.py",  # regular files are closed at once
    "_python/fd_numbers.py",  # in a rank
    "_python/greenlets.py",  # which means the patched ones
    "_python/unpatched.py",
)
"""Rooms and modules that may use them."""


def test_no_module_uses_what_is_patched() -> None:
    """`unpatched` has it."""
    package = Path(procession.__file__).parent
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    found = [
        f"{name}: {ast.unparse(node)}"
        for name, path in paths.items()
        if not name.startswith(EXEMPT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if ast.unparse(node) in BLOCKING
    ]
    assert "_supervise/supervisor.py" in paths
    assert not found
