"""`AgentSession`: starts the rank of an agent, reports to the caller, ends the rank and its descendants."""

from __future__ import annotations

import marshal
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from procession._linux import fds, memory
from procession._linux.messages import NUMBER, UNKNOWN
from procession._linux.procstat import state_of
from procession._python.clock import monotonic
from procession._python.fd_numbers import above_streams
from procession._python.interpreter import start_interpreter
from procession._supervise import oom
from procession._supervise.channel import UnreceivedError
from procession._supervise.stack_request import PATIENCE
from procession.commands import Command, start_held
from procession.protocol import Report, Started
from procession.remote import link as frames
from procession.remote.link import Link, await_frame, is_unacknowledged
from procession.remote.messages import SpecMessage

if TYPE_CHECKING:
    from subprocess import Popen

_ORPHAN_PATIENCE = 0.3  # seconds to wait for the caller's word after this agent's starter has ended
_KILL_WAIT = 3.0  # seconds for a killed process to end
_LOOK = 2  # milliseconds between looks at states that raise no event
_ANSWER_TIME = 0.8 * PATIENCE  # seconds for a rank's stacks; the rest is for the way to the caller


class AgentSession:
    """One rank of an agent.

    Args:
        rank: its number.
        control: the connection for frames.
        end: the connection for the exit code.
        given: descriptors that the rank inherits.
        ends_with: a descriptor that becomes readable when the agent should end, or -1.
    """

    def __init__(
        self, rank: int, control: Link, end: Link, given: list[int], ends_with: int
    ) -> None:
        self._rank = rank
        self._control = control
        self._end = end
        self._given = given
        self._ends_with = ends_with
        self._payload = -1
        self._asked = 0.0  # when the pending stack request was made, 0 if none is
        self._report_awaited = True
        self._code: int | None = None  # the exit code, from the rank's end until it is sent
        self._kills: dict[str, int] = {}  # OOM kills before the rank was started
        self._done = False
        self._forward: list[int] = []  # signals of the engine to forward to the rank
        self._terminated = False  # whether SIGTERM was sent to the rank
        self._orphaned = float("inf")  # when to end, once the starter has ended
        self._started = Started([], [], [])

    def prepare(self, payload: int = -1) -> None:
        """Receive the spec, and the payload unless the engine delivered it, and start the rank."""
        message: SpecMessage = await_frame(self._control, self._ends_with).head
        self._forward = [number for number in message["forward"] if not _is_hydras(number)]
        self._payload = payload if payload >= 0 else self._take_payload()
        if message["shares"]:
            self._control.send(frames.SHARE, (os.getpid(), self._payload))
        self._kills = oom.count_kills()
        spec = {**marshal.loads(message["spec"]), "place": message["place"]}
        spec = _adapt_spec(spec, message["prefix"])
        self._started = start_held(
            self._rank,
            message["changes"],
            spec,
            self._payload,
            self._start,
            keep_daemons=message["keep_daemons"],
            flags=message["flags"],
        )
        if not message["shares"]:
            self._close_payload()
        self._control.send(frames.STARTED, self._process.pid)

    def hold(self) -> None:
        """Supervise the rank until the caller knows its end and sends FINISH, or is gone."""
        wakeup = _catch_signals(self._forward_signal, self._forward)
        calls: dict[int, Callable[[], None]] = {
            self._control.fileno(): self._receive,
            self._end.fileno(): self._abandon,  # the caller sends nothing on it: it has closed it
            self._started.error_channels[0].fileno(): self._take_report,
            self._started.sentinels[0]: self._note_end,
            wakeup: lambda: _drain(wakeup),
            self._ends_with: self._note_orphaned,
        }
        self._poll = select.poll()
        for fd in calls:
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
        while not self._done:
            for fd, _ in self._poll.poll(self._patience()):
                calls[fd]()
            self._control.flush()
            self._send_stacks()
            self._send_end()
            if monotonic() >= self._orphaned and not self._done:
                self._abandon()

    @property
    def _process(self) -> Any:
        return self._started.processes[0]

    def _take_payload(self) -> int:
        """Return a descriptor of the payload: sent to this agent, or opened from another one of this host."""
        frame = await_frame(self._control, self._ends_with)
        if frame.kind == frames.SHARE:
            try:
                return _open_of_neighbour(*frame.head)
            except OSError:  # not permitted
                self._control.send(frames.WANTED)
                frame = await_frame(self._control, self._ends_with)
        if frame.error is not None:
            raise frame.error
        memory.seal(frame.body)
        return frame.body

    def _start(self, command: Command) -> Popen[Any]:
        # descriptors from the engine (the connection of PMI, for example) are for the rank
        given = (*command.pass_fds, *self._given)
        return start_interpreter(command.argv, pass_fds=given, env=command.env, new_session=False)

    def _patience(self) -> int | None:
        """Return how long to wait for events, in milliseconds."""
        room = select.POLLOUT if self._control.is_sending else 0
        self._poll.modify(self._control.fileno(), select.POLLIN | room)
        if self._asked or self._code is not None:
            return _LOOK
        left = self._orphaned - monotonic()
        return None if left == float("inf") else max(round(left * 1000), 0) + 1

    def _receive(self) -> None:
        """Act on frames of the caller."""
        try:
            while not self._done and (frame := self._control.receive()) is not None:
                self._act(frame)
        except EOFError:  # the caller is gone, or has closed the connection
            self._abandon()

    def _act(self, frame: frames.Frame) -> None:
        if frame.kind == frames.SIGNAL:
            self._signal(frame.head)
        elif frame.kind == frames.ASK:
            self._ask_stacks()
        elif frame.kind == frames.SHARE:  # all agents of this host have the payload
            self._close_payload()
        elif frame.kind == frames.FINISH:
            self._finish(failed=frame.head)

    def _signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            if not self._terminated:  # the engine and the caller may both send it
                self._terminated = True
                self._process.terminate()
        else:
            self._process.send_signal(number)

    def _forward_signal(self, number: int) -> None:
        """Forward a signal of the engine to the rank; SIGHUP becomes SIGTERM."""
        self._signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def _ask_stacks(self) -> None:
        if self._process.ask_stacks():
            self._asked = monotonic()
        else:
            self._excuse("the rank does not answer the signal that asks for stacks, or not yet")

    def _send_stacks(self) -> None:
        """Send the requested stacks once they are complete, or an excuse once time is up."""
        if not self._asked:
            return
        text = self._process.take_stacks()
        if text is not None:
            self._control.send(frames.STACKS, text)
        elif monotonic() >= self._asked + _ANSWER_TIME:
            self._excuse("the rank did not answer in time")
        else:
            return
        self._asked = 0.0

    def _excuse(self, why: str) -> None:
        state = state_of(self._process.pid)
        self._control.send(frames.STACKS, f"({why}: the state of its process is {state})")

    def _take_report(self) -> None:
        channel = self._started.error_channels[0]
        try:
            report = channel.receive()
            if report is None:
                return
        except EOFError:
            report = None
        except UnreceivedError as error:
            report = error.report
        except Exception as error:  # report it, and keep the agent running
            report = Report("unreadable", text=f"{type(error).__name__}: {error}")
        self._report_awaited = False
        self._poll.unregister(channel.fileno())
        if report is not None:
            self._send_report(report)

    def _send_report(self, report: Report) -> None:
        fields = report._asdict()
        if isinstance(report.result, memoryview):
            self._control.send(frames.RESULT, None, report.result)
            fields["result"] = None
        self._control.send(frames.REPORT, fields)

    def _note_end(self) -> None:
        if self._report_awaited:
            self._take_report()
        self._process.join(1)
        self._poll.unregister(self._process.sentinel)
        self._code = UNKNOWN if self._process.exitcode is None else self._process.exitcode
        if (
            self._code == -signal.SIGKILL
        ):  # the counters of the caller's host say nothing about this one
            self._control.send(frames.EVIDENCE, oom.tell_kills(self._kills))

    def _send_end(self) -> None:
        """Send the exit code, once the caller's host has acknowledged all frames before it."""
        if (
            self._code is not None
            and not self._control.is_sending
            and not is_unacknowledged(self._control.fileno())
        ):
            code, self._code = self._code, None
            self._poll.unregister(self._end.fileno())
            try:
                os.write(self._end.fileno(), code.to_bytes(NUMBER, "big", signed=True))
            except OSError:  # the caller is gone
                pass
            self._end.close()

    def _finish(self, *, failed: bool) -> None:
        """End the rank and its descendants, and leave `hold`."""
        self._process.kill()
        self._process.join(_KILL_WAIT)
        if failed and self._started.on_failure is not None:
            self._started.on_failure()
        if self._started.on_finish is not None:
            self._started.on_finish()
        self._done = True

    def _note_orphaned(self) -> None:
        """Give the caller a little time to decide, now that the starter of this agent has ended.

        An engine may end because another agent did; the caller then learns of that agent's end first.
        """
        self._poll.unregister(self._ends_with)
        self._orphaned = monotonic() + _ORPHAN_PATIENCE

    def _abandon(self) -> None:
        self._finish(failed=True)

    def _close_payload(self) -> None:
        payload, self._payload = self._payload, -1
        if payload >= 0:
            os.close(payload)


def _adapt_spec(spec: Any, prefix: str) -> Any:
    """Return the spec of a rank that is a child of this process."""
    path = spec["sys_path"]
    if prefix != sys.prefix:  # an interpreter other than the caller's has its own libraries
        strings = [each for each in path if isinstance(each, str)]
        theirs = [each for each in strings if not each.startswith(prefix) and each not in sys.path]
        path = [*sys.path, *theirs]
    return {**spec, "sys_path": path, "parent_pid": os.getpid()}


def _open_of_neighbour(pid: int, fd: int) -> int:
    """Open the payload of another agent.

    Raises:
        OSError: this process may not open it.
    """
    path = f"/proc/{pid}/fd/{fd}"
    if not os.readlink(path).startswith("/memfd:procession-payload"):
        raise FileNotFoundError(path)
    return above_streams(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _is_hydras(number: int) -> bool:
    """Whether a signal only means, under MPICH's process manager Hydra, that another process has ended."""
    return number == signal.SIGUSR1 and "MPI_LOCALRANKID" in os.environ


def _catch_signals(call: Callable[[int], None], forward: Sequence[int]) -> int:
    """Call a function with each signal that arrives; return a descriptor that becomes readable then."""
    read, write = fds.open_pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *forward):
        signal.signal(number, lambda which, _: call(which))
    return read


def _drain(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
