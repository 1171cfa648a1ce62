"""The built-in start methods by way of `multiprocessing.Process`, where procession's own way is missing.

On macOS, on Windows, in frozen applications, and in sandboxes without pidfds.  What is weaker than on
Linux: ``env`` takes effect after the main module is imported; args are pickled once a rank; a large
return value waits until the caller reads it; what fails before fn is called (an import, unpickling) is
told on standard error alone; a process that a rank forked delays the news of that rank's end; and ranks
may outlive the caller.  Off Linux, only ranks that fail or are stopped take what is in their process groups
with them, on Windows not even these.
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

_LOOK = 0.005  # seconds between looks at what is being ended


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
            ValueError: what the rank sent is no report.
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
        """Leave the descriptor where it is."""

    def send_file(self, frame: bytes, data: bytes) -> None:
        """Send a large return value through the pipe: there is no file to hand over."""
        _, time, _ = wire.decode(frame) or (b"", 0, [])
        self._send(wire.encode(wire.RETURNED, time, data))

    def _send(self, frame: bytes) -> None:
        if self.is_ours():
            self._connection.send_bytes(frame)


class GroupProcess:
    """A `multiprocessing.Process` that is signalled together with the group that it leads as a rank.

    What one that failed has left in its group is killed as long as its number is its own, before
    multiprocessing reaps it.  A forkserver's processes are not this process's to reap: theirs is left.
    """

    def __init__(self, process: Any) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def __repr__(self) -> str:
        return repr(self._process)

    @property
    def exitcode(self) -> int | None:
        """None while it runs; -N if signal N ended it."""
        self._end_group()
        code: int | None = self._process.exitcode
        return code

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        self._end_group()
        return bool(self._process.is_alive())

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for at most ``timeout`` seconds."""
        wait([self._process.sentinel], timeout)
        self._end_group()
        self._process.join(timeout)

    def terminate(self) -> None:
        """Send SIGTERM to it and its group, and SIGCONT, without which a stopped one never acts."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to it and its group."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its group, if it has not ended."""
        from procession._cleanup.children import signal_group

        if self.is_alive() and not signal_group(self._process.pid, number):
            try:
                os.kill(self._process.pid, number)
            except ProcessLookupError:  # it has ended in this instant
                pass

    def _end_group(self) -> None:
        """Kill what is left in its group, if it has ended with a failure and was not reaped yet."""
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
    """Changes the environment where it is unpickled: ahead of fn and args, which follow it."""

    def __init__(self, changes: dict[str, str | None]) -> None:
        self.changes = changes

    def __reduce__(self) -> tuple[Any, ...]:
        return rank_life.change_environment, (self.changes,)


def start(launch: Launch, start_method: str) -> Started:
    """Start one `multiprocessing.Process` a rank."""
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
    """Have what ranks leave be ended with them, if they carry a mark."""
    if not mark:
        return started
    return started._replace(
        on_failure=partial(_end_marked, mark), on_finish=partial(_end_groups, mark, started)
    )


def _mark_of(spec: RankSpec) -> int:
    """Return the mark that the ranks are to carry, 0 where there are none."""
    if sys.platform != "linux":
        return 0
    from procession._cleanup.marks import mark_of

    return mark_of(spec["launch_id"])


def _end_groups(mark: int, started: Started) -> None:
    """Kill what ranks have left in their groups."""
    from procession._cleanup.children import leaves_group

    groups = {int(one.pid or 0) for one in started.processes if one.pid and leaves_group(one.pid)}
    if groups:
        _end_marked(mark, groups)


def _end_marked(mark: int, groups: Collection[int] | None = None) -> None:
    """Kill what the ranks of a launch have left (in some groups), as `descendants.end` does by pidfds."""
    from procession._cleanup.marks import PATIENCE
    from procession._cleanup.tree import LINGER

    kill_from = time.monotonic() + LINGER
    while (now := time.monotonic()) < kill_from + PATIENCE:
        try:
            found = _list_marked(mark)
            alive = [pid for pid in found if groups is None or os.getpgid(pid) in groups]
            for pid in alive if now >= kill_from else ():
                os.kill(pid, signal.SIGKILL)
        except OSError:  # one has ended meanwhile
            continue
        if not alive:
            return
        unpatched.sleep(_LOOK)


def _list_marked(mark: int) -> list[int]:
    """Return the living processes that carry a mark."""
    from procession._cleanup.marks import read_mark

    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if read_mark(pid) == mark and state_of(pid) not in "ZX"]


def _check(launch: Launch) -> None:
    if getattr(sys, "frozen", False):
        _refuse_rerun(sys.argv)
    if launch.entry is not None or launch.exit_barrier:
        raise NotImplementedError(f"start method {launch.start_method!r} needs Linux")


def _refuse_rerun(argv: list[str]) -> None:
    """Raise in a process that multiprocessing started and that runs the application's script instead.

    It would start ranks of its own, and each of these again: without end.
    """
    code = argv[argv.index("-c") + 1 :][:1] if "-c" in argv else []
    if argv[1:2] == ["--multiprocessing-fork"] or any("from multiprocessing." in c for c in code):
        raise RuntimeError(
            "a frozen application must call multiprocessing.freeze_support() in its script, after the "
            "functions that ranks run and before it starts any: this process is a rank, or a helper "
            "of multiprocessing, that runs the script from its beginning instead"
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
    """Live a rank's life in a process that multiprocessing has made one of its own."""
    if mark:
        from procession._cleanup import marks

        marks.put(0, mark)
    if inheritance is not None:
        inheritance.reset()
        rank_life.mask = inheritance.mask
    rank_life.change_environment(environment)  # for fork, where nothing was unpickled
    spec = {**spec, "context": ""}  # multiprocessing has given it its identity
    status, succeeded = rank_life.live(spec, rank, PipeReporter(writer), -1, lambda: (fn, args))
    if not succeeded:
        rank_life.leave(status, succeeded)
