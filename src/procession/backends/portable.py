"""The built-in start methods through `multiprocessing.Process`, where procession cannot start ranks itself.

That is the case on macOS and Windows, in frozen applications and in sandboxes without pidfds.  These ranks
are weaker than those on Linux:

- ``env`` takes effect after the import of the main module;
- args are pickled once per rank;
- a rank with a large return value waits until the caller reads it;
- a failure before the call of fn (an import, unpickling) appears on standard error only;
- a process that a rank forked delays the notice of that rank's end;
- ranks may outlive the caller.

Off Linux, only a rank that fails or is stopped ends the processes in its group; on Windows none does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from procession._launch.spec import make_spec
from procession._launch.starting import Handles, start_each
from procession._linux.procstat import state_of
from procession._python import unpatched
from procession._rank import life as rank_life
from procession._rank import wire
from procession._rank.fork_signals import Inheritance
from procession._rank.identity import name_process
from procession._rank.report import Reporter
from procession._rank.spec import RankSpec
from procession._supervise.channel import to_report
from procession.protocol import Launch, Report, Started

_LOOK = 0.005  # seconds between looks at processes that are being killed


class ConnectionChannel:
    """An `ErrorChannel` over the reading end of a multiprocessing pipe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.connection.fileno()

    def receive(self) -> Report | None:
        """Return the report if it is there, else None.

        Raises:
            EOFError: the rank's end is closed.
            ValueError: the rank sent something other than a report.
            OSError: it cannot be read.
        """
        if self.connection.closed:
            raise EOFError("the channel is closed")
        try:
            if not self.connection.poll():
                return None
            frame = wire.decode(self.connection.recv_bytes(), limit=None)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise EOFError("the rank's end of the error channel is closed") from error
        if frame is None:
            raise ValueError("a part of a frame")
        return to_report(*frame)

    def close(self) -> None:
        """Close this end."""
        self.connection.close()


class PipeReporter(Reporter):
    """A rank's reporter over the writing end of a multiprocessing pipe."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(-1)
        self._connection = connection

    def lift(self) -> None:
        """Keep the descriptor's number."""

    def send_file(self, frame: bytes, data: bytes) -> None:
        """Send a large return value through the pipe, which cannot carry a file."""
        _, time, _ = wire.decode(frame) or (b"", 0, [])
        self._send(wire.encode(wire.RETURNED, time, data))

    def _send(self, frame: bytes) -> None:
        if self.is_ours():
            self._connection.send_bytes(frame)


class GroupProcess:
    """A `multiprocessing.Process` of a rank, signalled together with the process group that it leads.

    If the process failed, the rest of its group is killed before multiprocessing reaps the process, while
    its pid is still its own.  This process cannot reap those of multiprocessing's forkserver, and leaves the
    groups of these alone.
    """

    def __init__(self, process: Any) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def __repr__(self) -> str:
        return repr(self._process)

    @property
    def exitcode(self) -> int | None:
        """None while the process runs; -N if signal N ended it."""
        self._end_group()
        code: int | None = self._process.exitcode
        return code

    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        self._end_group()
        return bool(self._process.is_alive())

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most ``timeout`` seconds."""
        wait([self._process.sentinel], timeout)
        self._end_group()
        self._process.join(timeout)

    def terminate(self) -> None:
        """Send SIGTERM to the process and its group, then SIGCONT, without which a stopped one never acts."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the process and its group."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process and its group, if the process still runs."""
        from procession._cleanup.children import signal_group

        if self.is_alive() and not signal_group(self._process.pid, number):
            try:
                os.kill(self._process.pid, number)
            except ProcessLookupError:  # it has just ended
                pass

    def _end_group(self) -> None:
        """Kill the rest of the group, if the process has failed and is not reaped yet."""
        from procession._cleanup.children import signal_group

        if hasattr(os, "waitid"):
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            try:
                info = os.waitid(os.P_PID, self._process.pid, how)
            except ChildProcessError:
                return
            if info is not None and (info.si_code != os.CLD_EXITED or info.si_status != 0):
                signal_group(self._process.pid, signal.SIGKILL)


class _EnvironmentFirst:
    """Changes the environment when it is unpickled, which happens before fn and args are."""

    def __init__(self, changes: dict[str, str | None]) -> None:
        self.changes = changes

    def __reduce__(self) -> tuple[Any, ...]:
        return rank_life.change_environment, (self.changes,)


def start(launch: Launch, start_method: str) -> Started:
    """Start one `multiprocessing.Process` per rank."""
    _check(launch)
    context = multiprocessing.get_context(start_method)
    spec = make_spec(launch, start_method, forked=False)
    mark = 0 if launch.keep_daemons else _mark_of(spec)

    keep = launch.signals.keep_handlers
    inheritance = Inheritance(keep_handlers=keep) if start_method == "fork" else None

    def start_one(rank: int) -> Handles:
        reader, writer = context.Pipe(duplex=False)
        environment = dict(launch.environments[rank])
        process = context.Process(  # type: ignore[attr-defined]
            name=name_process(start_method, launch.identity, rank),
            target=_live,
            args=(
                _EnvironmentFirst(environment),
                environment,
                spec,
                rank,
                writer,
                launch.fn,
                launch.args,
                inheritance,
                mark,
            ),
            daemon=launch.daemon,
        )
        try:
            with inheritance or nullcontext():
                process.start()
        except BaseException:
            reader.close()
            raise
        finally:
            writer.close()
        handle: Any = GroupProcess(process) if hasattr(os, "killpg") else process
        return handle, process.sentinel, ConnectionChannel(reader)

    return _attach(start_each(launch, start_one), mark)


def _attach(started: Started, mark: int) -> Started:
    """Add the calls that end what ranks leave behind, if the ranks carry a mark."""
    if not mark:
        return started
    return started.replace(
        on_failure=partial(_end_marked, mark), on_finish=partial(_end_groups, mark, started)
    )


def _mark_of(spec: RankSpec) -> int:
    """Return the mark for the ranks to carry; 0 off Linux, which has no marks."""
    if sys.platform != "linux":
        return 0
    from procession._cleanup.marks import mark_of

    return mark_of(spec["launch_id"])


def _end_groups(mark: int, started: Started) -> None:
    """Kill the processes that ranks left in their groups."""
    from procession._cleanup.children import leaves_group

    groups = {int(one.pid or 0) for one in started.processes if one.pid and leaves_group(one.pid)}
    if groups:
        _end_marked(mark, groups)


def _end_marked(mark: int, groups: Collection[int] | None = None) -> None:
    """Kill the processes that ranks left (only those in ``groups``, if given); `marks.end` without pidfds."""
    from procession._cleanup.marks import PATIENCE
    from procession._cleanup.tree import LINGER

    kill_from = time.monotonic() + LINGER
    while (now := time.monotonic()) < kill_from + PATIENCE:
        try:
            found = _list_marked(mark)
            alive = [pid for pid in found if groups is None or os.getpgid(pid) in groups]
            for pid in alive if now >= kill_from else ():
                os.kill(pid, signal.SIGKILL)
        except OSError:  # one has ended in the meantime
            continue
        if not alive:
            return
        unpatched.sleep(_LOOK)


def _list_marked(mark: int) -> list[int]:
    """Return the pids of living processes that carry a mark."""
    from procession._cleanup.marks import read_mark

    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if read_mark(pid) == mark and state_of(pid) not in "ZX"]


def _check(launch: Launch) -> None:
    if getattr(sys, "frozen", False):
        _refuse_rerun(sys.argv)
    if launch.entry is not None or launch.exit_barrier:
        raise NotImplementedError(f"start method {launch.start_method!r} needs Linux")


def _refuse_rerun(argv: list[str]) -> None:
    """Raise an error in a process of multiprocessing that runs the application's script by mistake.

    Otherwise it would start ranks, and each of these would start ranks again, without end.
    """
    code = argv[argv.index("-c") + 1 :][:1] if "-c" in argv else []
    if argv[1:2] == ["--multiprocessing-fork"] or any("from multiprocessing." in c for c in code):
        raise RuntimeError(
            "a frozen application must call multiprocessing.freeze_support() in its script, after it "
            "defines the functions that ranks run and before it starts ranks: this process is a rank, or "
            "a helper of multiprocessing, but runs the script from its beginning"
        )


def _live(
    _: object,
    environment: dict[str, str | None],
    spec: RankSpec,
    rank: int,
    writer: Connection,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    inheritance: Inheritance | None,
    mark: int,
) -> None:
    """Run a rank in a process that multiprocessing has started."""
    if mark:
        from procession._cleanup import marks

        marks.put(0, mark)
    if inheritance is not None:
        inheritance.reset()
        rank_life.mask = inheritance.mask
    rank_life.change_environment(environment)  # for fork, which unpickles nothing
    spec = {**spec, "context": ""}  # the process has its identity from multiprocessing already
    status, succeeded = rank_life.live(spec, rank, PipeReporter(writer), -1, lambda: (fn, args))
    if not succeeded:
        rank_life.leave(status, succeeded)
