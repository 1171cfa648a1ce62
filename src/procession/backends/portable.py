"""The built-in start methods by way of `multiprocessing.Process`, where procession's own way is missing.

On macOS, on Windows, in frozen applications, and in sandboxes without pidfds.  What is weaker than on
Linux: ``env`` takes effect after the main module is imported; args are pickled once a rank; a large
return value waits until the caller reads it; only the ranks themselves are signalled, not what they
started; what fails before fn is called (an import, unpickling) is told on standard error alone; a
process that a rank forked delays the news of that rank's end; and ranks may outlive the caller.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from procession import rank as rank_life
from procession import wire
from procession.channel import to_report
from procession.fork_signals import Inheritance
from procession.identity import name_process
from procession.orders import write_orders
from procession.protocol import Launch, Report, Started
from procession.report import Reporter
from procession.starting import Handles, start_each


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


class _EnvironmentFirst:
    """Changes the environment where it is unpickled: ahead of fn and args, which follow it."""

    def __init__(self, changes: dict[str, str | None]) -> None:
        self.changes = changes

    def __reduce__(self) -> tuple[Any, ...]:
        return rank_life.change_environment, (self.changes,)


def start(launch: Launch, start_method: str) -> Started:
    """Start one `multiprocessing.Process` a rank."""
    if getattr(sys, "frozen", False):
        _refuse_rerun(sys.argv)
    if launch.entry is not None or launch.together:
        raise NotImplementedError(f"start method {launch.start_method!r} needs Linux")
    context = multiprocessing.get_context(start_method)
    orders = write_orders(launch, start_method, forked=False)

    inheritance = None  # nothing to pickle where nothing is inherited
    if start_method == "fork":
        inheritance = Inheritance(keep_handlers=launch.signals.keep_handlers)

    def start_one(rank: int) -> Handles:
        reader, writer = context.Pipe(duplex=False)
        environment = dict(launch.environments[rank])
        process = context.Process(  # type: ignore[attr-defined]
            name=name_process(start_method, launch.identity, rank),
            target=_live,
            args=(
                _EnvironmentFirst(environment),
                environment,
                orders,
                rank,
                writer,
                launch.fn,
                launch.args,
                inheritance,
            ),
            daemon=launch.daemon,
        )
        try:
            process.start()
        except BaseException:
            reader.close()
            raise
        finally:
            writer.close()
        return process, process.sentinel, ConnectionChannel(reader)

    return start_each(launch, start_one)


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
    orders: rank_life.Orders,
    rank: int,
    writer: Connection,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    inheritance: Inheritance | None,
) -> None:
    """Live a rank's life in a process that multiprocessing has made one of its own."""
    if inheritance is not None:
        inheritance.reset()
    rank_life.change_environment(environment)  # for fork, where nothing was unpickled
    orders = {**orders, "context": ""}  # multiprocessing has given it its identity
    status, succeeded = rank_life.live(orders, rank, PipeReporter(writer), -1, lambda: (fn, args))
    if not succeeded:
        rank_life.leave(status, succeeded)
