"""What an agent does with its rank: starts it, tells its caller of it, ends it and what it has started."""

from __future__ import annotations

import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from procession._linux import fds, memory
from procession._linux.messages import NUMBER, UNKNOWN
from procession._linux.procstat import state_of
from procession._python.fd_numbers import above_streams
from procession._python.interpreter import start_interpreter
from procession._supervise import oom
from procession._supervise.channel import UnreceivedError
from procession._supervise.stack_request import PATIENCE
from procession.commands import Command, start_held
from procession.protocol import Report, Started
from procession.remote import link as frames
from procession.remote.link import Link, await_frame, is_unacknowledged

if TYPE_CHECKING:
    from subprocess import Popen

_ORPHAN_PATIENCE = (
    0.3  # seconds for the caller to say what it wants, once this agent's starter is gone
)
_KILL_WAIT = 3.0  # seconds for a killed process to end
_LOOK = 2  # milliseconds between looks at what raises no event
_ANSWER_TIME = 0.8 * PATIENCE  # seconds that a rank has to show its stacks: the answer travels, too


class AgentSession:
    """One rank in an agent's care.

    ``given`` are descriptors that it is to inherit; ``guard``, if not -1, is one whose end of file means that
    the agent is to end.
    """

    def __init__(self, rank: int, control: Link, end: Link, given: list[int], guard: int) -> None:
        self._rank = rank
        self._control = control
        self._end = end
        self._given = given
        self._guard = guard
        self._payload = -1
        self._asked = 0.0  # when the rank was asked for its stacks, if the answer is awaited
        self._report_awaited = True
        self._code: int | None = None  # the rank's, from its end until the caller has been told
        self._kills: dict[str, int] = {}  # the kernel's count, before the rank was started
        self._done = False
        self._forward: list[int] = []  # signals of the engine's that the rank is to get
        self._terminated = False  # whether the rank has got SIGTERM
        self._orphaned = float("inf")  # when to end, if whoever has started this agent is gone
        self._started = Started([], [], [])

    def prepare(self, payload: int = -1) -> None:
        """Take the orders and the payload, unless this agent was given that, and start the rank."""
        told = await_frame(self._control, self._guard).head
        self._forward = [number for number in told["forward"] if not _is_hydras(number)]
        self._payload = payload if payload >= 0 else self._take_payload()
        if told["shares"]:
            self._control.send(frames.SHARE, (os.getpid(), self._payload))
        self._kills = oom.count_kills()
        spec = _make_own({**marshal.loads(told["orders"]), "place": told["place"]}, told["prefix"])
        self._started = start_held(
            self._rank,
            told["changes"],
            spec,
            self._payload,
            self._start,
            keep_daemons=told["keep_daemons"],
            flags=told["flags"],
        )
        if not told["shares"]:
            self._let_go()
        self._control.send(frames.STARTED, self._process.pid)

    def hold(self) -> None:
        """Stand over the rank until the caller has heard of its end, and wants nothing more; or is gone."""
        wakeup = _note_signals(self._pass_on, self._forward)
        calls: dict[int, Callable[[], None]] = {
            self._control.fileno(): self._hear,
            self._end.fileno(): self._abandon,  # the caller says nothing on it: it is gone
            self._started.error_channels[0].fileno(): self._take_report,
            self._started.sentinels[0]: self._note_end,
            wakeup: lambda: _drain(wakeup),
            self._guard: self._note_loss,
        }
        self._poll = select.poll()
        for fd in calls:
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
        while not self._done:
            for fd, _ in self._poll.poll(self._patience()):
                calls[fd]()
            self._control.flush()
            self._answer()
            self._tell_end()
            if time.monotonic() >= self._orphaned and not self._done:
                self._abandon()

    @property
    def _process(self) -> Any:
        return self._started.processes[0]

    def _take_payload(self) -> int:
        """Return the payload: sent to this agent, or to another of this host, whose file it then is."""
        frame = await_frame(self._control, self._guard)
        if frame.kind == frames.SHARE:
            try:
                return _open_of_neighbour(*frame.head)
            except OSError:  # we may not
                self._control.send(frames.WANTED)
                frame = await_frame(self._control, self._guard)
        if frame.error is not None:
            raise frame.error
        memory.seal(frame.body)
        return frame.body

    def _start(self, command: Command) -> Popen[Any]:
        # what the engine has handed over (PMI's connection, say) is for the rank
        given = (*command.pass_fds, *self._given)
        return start_interpreter(command.argv, pass_fds=given, env=command.env, new_session=False)

    def _patience(self) -> int | None:
        """Return how long to wait for events, in milliseconds."""
        room = select.POLLOUT if self._control.is_sending else 0
        self._poll.modify(self._control.fileno(), select.POLLIN | room)
        if self._asked or self._code is not None:
            return _LOOK
        left = self._orphaned - time.monotonic()
        return None if left == float("inf") else max(round(left * 1000), 0) + 1

    def _hear(self) -> None:
        """Do what the caller says."""
        try:
            while not self._done and (frame := self._control.receive()) is not None:
                self._obey(frame)
        except EOFError:  # it is gone, or wants no more of it
            self._abandon()

    def _obey(self, frame: frames.Frame) -> None:
        if frame.kind == frames.SIGNAL:
            self._signal(frame.head)
        elif frame.kind == frames.ASK:
            self._ask()
        elif frame.kind == frames.SHARE:  # all have the payload
            self._let_go()
        elif frame.kind == frames.FINISH:
            self._finish(failed=frame.head)

    def _signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            if not self._terminated:  # the engine may send it as the caller does
                self._terminated = True
                self._process.terminate()
        else:
            self._process.send_signal(number)

    def _pass_on(self, number: int) -> None:
        """Send the rank what the engine has sent to this agent; SIGTERM for SIGHUP."""
        self._signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def _ask(self) -> None:
        if self._process.ask_stacks():
            self._asked = time.monotonic()
        else:
            self._excuse("the rank does not answer the signal that asks for stacks, or not yet")

    def _answer(self) -> None:
        """Tell the stacks that were asked for, once they are there, or that they are not."""
        if not self._asked:
            return
        text = self._process.take_stacks()
        if text is not None:
            self._control.send(frames.STACKS, text)
        elif time.monotonic() >= self._asked + _ANSWER_TIME:
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
        except Exception as error:  # the caller is to hear of it, and this agent to stay
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
        if self._code == -signal.SIGKILL:  # the caller's own counters say nothing of this host
            self._control.send(frames.EVIDENCE, oom.tell_kills(self._kills))

    def _tell_end(self) -> None:
        """Tell the exit code, once all that was said before is where the caller is."""
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
        """End what is to end with the rank, and this agent."""
        self._process.kill()
        self._process.join(_KILL_WAIT)
        if failed and self._started.on_failure is not None:
            self._started.on_failure()
        if self._started.on_finish is not None:
            self._started.on_finish()
        self._done = True

    def _note_loss(self) -> None:
        """Give the caller time to say what it wants, now that whoever has started this agent is gone.

        An engine may end for want of another agent; what became of that one then reaches the caller first.
        """
        self._poll.unregister(self._guard)
        self._orphaned = time.monotonic() + _ORPHAN_PATIENCE

    def _abandon(self) -> None:
        self._finish(failed=True)

    def _let_go(self) -> None:
        payload, self._payload = self._payload, -1
        if payload >= 0:
            os.close(payload)


def _make_own(spec: Any, prefix: str) -> Any:
    """Return the orders of a rank that is a child of this process."""
    path = spec["sys_path"]
    if prefix != sys.prefix:  # another interpreter than the caller's has libraries of its own
        strings = [each for each in path if isinstance(each, str)]
        theirs = [each for each in strings if not each.startswith(prefix) and each not in sys.path]
        path = [*sys.path, *theirs]
    return {**spec, "sys_path": path, "parent_pid": os.getpid()}


def _open_of_neighbour(pid: int, fd: int) -> int:
    """Return a descriptor of another agent's payload.

    Raises:
        OSError: this process may not have it.
    """
    path = f"/proc/{pid}/fd/{fd}"
    if not os.readlink(path).startswith("/memfd:procession-payload"):
        raise FileNotFoundError(path)
    return above_streams(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _is_hydras(number: int) -> bool:
    """Whether a signal only says, under MPICH's process manager, that another process has ended."""
    return number == signal.SIGUSR1 and "MPI_LOCALRANKID" in os.environ


def _note_signals(call: Callable[[int], None], forward: Sequence[int]) -> int:
    """Call a function with what this process is signalled; return what to wait for meanwhile."""
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
