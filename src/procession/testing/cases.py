"""The fault table: what can go wrong in a rank, and what its caller must learn.

All ranks of a launch play a case: `play(rank, name, folder, busy)`.  Rank 1 has the fault.  The other ranks
work for far longer than a test waits, unless the case gives them a part.  Ranks coordinate through files in
``folder``, and note there the processes that must be gone afterwards.  A case needs nothing else from its
launcher, so that the same table serves every start method and every other library.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass, field

from procession.testing.bystanders import (
    await_stop,
    fail_first,
    fail_first_and_linger,
    first_rank,
    follow_soon,
    ignore_termination,
    stop_yourself,
    wait_in_vfork,
    work_in_c,
)
from procession.testing.faults import (
    BOOM,
    Act,
    Interrupts,
    NeedsTwo,
    NoText,
    NothingWorks,
    OwnBase,
    become_nobody,
    close_descriptors,
    close_streams,
    dying_of,
    exhaust_memory,
    fork_daemon,
    fork_worker,
    hold_memory,
    keep_child,
    keep_exit_handler,
    keep_queue,
    keep_thread,
    leave_in_c,
    leaving,
    leaving_at_once,
    limiting,
    lose_folder,
    lose_temporary_folder,
    once,
    raise_base_group,
    raise_chained,
    raise_group,
    raise_huge,
    raise_local,
    raise_noted,
    raise_recursion,
    raise_unpicklable,
    raising,
    start_grandchildren,
    start_program,
    start_session,
    start_stranger,
    then,
    work,
)
from procession.testing.scratch import Stage

RANKS = 3


@dataclass(frozen=True)
class Case:
    """One fault: what rank 1 and the other ranks do, and which error the caller must get.

    ``outcome`` is ``raised`` (and ``text`` is in the traceback), ``exited`` (with ``code`` and
    ``signal_name``) or ``ok``.  ``needs`` names the capabilities (see
    `procession.Capabilities`) that a start method must claim; ``root`` means that the test must run as root.
    """

    act: Act
    outcome: str = "raised"
    text: str = ""
    code: int | None = None
    signal_name: str | None = None
    others: Act = work
    needs: tuple[str, ...] = ()
    seconds: float = 5.0
    """Seconds that the case may take; ``stubborn`` cases add the grace period before SIGKILL."""
    stubborn: bool = field(default=False)


def play(rank: int, name: str, folder: str, busy: float = 60.0) -> None:
    """Play one rank's part in a case."""
    case, stage = CASES[name], Stage(folder, busy)
    (case.act if rank == 1 else case.others)(stage)
    if case.outcome != "ok":
        stage.work()


CASES = {
    "ValueError": Case(BOOM, text="ValueError: boom"),
    "unpicklable": Case(raise_unpicklable, text="ValueError: holds a lock"),
    "needs two": Case(raising(NeedsTwo("for", "two")), text="NeedsTwo: for two"),
    "local": Case(raise_local, text="Local: of a function"),
    "no text": Case(raising(NoText()), text="NoText"),
    "nothing works": Case(raising(NothingWorks()), text="NothingWorks"),
    "interrupts": Case(raising(Interrupts()), text="Interrupts"),
    "recursion": Case(raise_recursion, text="RecursionError: maximum recursion depth exceeded"),
    "chained": Case(raise_chained, text="KeyError: 'the first'"),
    "surrogates": Case(raising(ValueError("odd \udc80 and \0 end")), text="ValueError: odd "),
    "200 MB": Case(raise_huge, text="xxx>", seconds=20),
    "exit 0": Case(leaving(0), "ok", others=lambda stage: None),
    "exit text": Case(leaving("the reason"), "exited", "the reason", code=1),
    "exit 3": Case(leaving(3), "exited", code=3),
    "exit 256": Case(leaving(256), "exited", "256", code=1),
    "KeyboardInterrupt": Case(raising(KeyboardInterrupt()), text="KeyboardInterrupt"),
    "SIGINT": Case(dying_of(signal.SIGINT), text="KeyboardInterrupt", needs=("signals",)),
    "GeneratorExit": Case(raising(GeneratorExit()), text="GeneratorExit"),
    "own base": Case(raising(OwnBase("own")), text="OwnBase: own"),
    "cancelled": Case(raising(asyncio.CancelledError()), text="CancelledError"),
    "_exit 0": Case(leaving_at_once(0), "exited", "before its function returned", code=0),
    "_exit 7": Case(leaving_at_once(7), "exited", code=7),
    "C exit 7": Case(leave_in_c, "exited", code=7),
    "SIGKILL": Case(dying_of(signal.SIGKILL), "exited", code=-9, signal_name="SIGKILL"),
    "SIGSEGV": Case(dying_of(signal.SIGSEGV), "exited", code=-11, signal_name="SIGSEGV"),
    "SIGABRT": Case(dying_of(signal.SIGABRT), "exited", code=-6, signal_name="SIGABRT"),
    "SIGTERM": Case(dying_of(signal.SIGTERM), "exited", code=-15, signal_name="SIGTERM"),
    "SIGPIPE": Case(dying_of(signal.SIGPIPE), "exited", code=-13, signal_name="SIGPIPE"),
    "real-time": Case(dying_of(signal.SIGRTMIN + 3), "exited", code=-37, signal_name="SIGRTMIN+3"),
    "memory": Case(exhaust_memory, text="MemoryError"),
    "memory held": Case(hold_memory, text="MemoryError"),
    "victim follows": Case(fail_first, text="the root cause", others=follow_soon),
    "victim leaves first": Case(fail_first_and_linger, text="the root cause", others=follow_soon),
    "thread": Case(keep_thread, text="ValueError: a thread stays"),
    "queue": Case(keep_queue, text="ValueError: a queue stays"),
    "exit handler": Case(keep_exit_handler, text="ValueError: a handler stays"),
    "child": Case(keep_child, text="ValueError: a child stays"),
    "peer ignores SIGTERM": Case(
        once("ready", BOOM), text="boom", others=first_rank(ignore_termination), stubborn=True
    ),
    "peer in C": Case(
        once("ready", BOOM), text="boom", others=first_rank(work_in_c), stubborn=True
    ),
    "peer stopped": Case(then(await_stop, BOOM), text="boom", others=first_rank(stop_yourself)),
    "peer in vfork": Case(
        once("ready", BOOM), text="boom", others=first_rank(wait_in_vfork), needs=("descendants",)
    ),
    "program": Case(then(start_program, BOOM), text="boom", needs=("descendants",)),
    "fork": Case(then(fork_worker, BOOM), text="boom", needs=("descendants",)),
    "fork, exit 7": Case(
        then(fork_worker, leaving_at_once(7)), "exited", code=7, needs=("descendants",)
    ),
    "session": Case(then(start_session, BOOM), text="boom", needs=("descendants",)),
    "daemon": Case(then(fork_daemon, BOOM), text="boom", needs=("descendants",)),
    "stranger": Case(then(start_stranger, BOOM), text="boom", needs=("descendants",)),
    "stranger, SIGKILL": Case(
        then(start_stranger, dying_of(signal.SIGKILL)),
        "exited",
        code=-9,
        signal_name="SIGKILL",
        needs=("descendants",),
    ),
    "grandchildren": Case(then(start_grandchildren, BOOM), text="boom", needs=("descendants",)),
    "peer's session": Case(
        once("ready", BOOM),
        text="boom",
        others=first_rank(then(start_session, lambda stage: stage.tell("ready"), work)),
        needs=("descendants",),
    ),
    "peer's program": Case(
        once("ready", BOOM),
        text="boom",
        others=first_rank(then(start_program, lambda stage: stage.tell("ready"), work)),
        needs=("descendants",),
    ),
    "all well, program left": Case(
        start_program, "ok", others=lambda _: None, needs=("descendants",)
    ),
    "all well, fork left": Case(fork_worker, "ok", others=lambda _: None, needs=("descendants",)),
    "descriptors": Case(close_descriptors, text="ValueError: no descriptors"),
    "nobody": Case(become_nobody, text="ValueError: nobody", needs=("root",)),
    "temporary folder": Case(lose_temporary_folder, text="ValueError: no temporary folder"),
    "file size": Case(limiting("RLIMIT_FSIZE", 16), text="ValueError: under RLIMIT_FSIZE"),
    "open files": Case(limiting("RLIMIT_NOFILE", 3), text="ValueError: under RLIMIT_NOFILE"),
    "streams": Case(close_streams, text="ValueError: no streams"),
    "folder": Case(lose_folder, text="ValueError: no folder"),
}
if sys.version_info >= (3, 11):
    CASES["group"] = Case(raise_group, text="TypeError: other of it")
    CASES["base group"] = Case(raise_base_group, text="KeyboardInterrupt: one of it")
    CASES["noted"] = Case(raise_noted, text="the note")
