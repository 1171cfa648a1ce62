"""The caller's view of a rank that an agent holds: its process, and the channel for its report."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import Any

from procession._linux import fds
from procession._linux.messages import NUMBER, UNKNOWN
from procession._python.clock import monotonic
from procession._python.deadlines import seconds_until
from procession._supervise.channel import NO_DESCRIPTORS, map_file, miss_result
from procession._supervise.process_attributes import ProcessAttributes
from procession.protocol import Report
from procession.remote import link as frames
from procession.remote.agent_connection import AgentConnection


class RemoteProcess(ProcessAttributes):
    """The process of a rank that an agent holds, with the attributes of a `multiprocessing.Process`."""

    def __init__(self, connection: AgentConnection, pid: int, *, name: str, daemon: bool) -> None:
        self.pid = pid
        self.name = name
        self.daemon = daemon
        self.host: str = connection.host
        self.sentinel: int = connection.end.fileno()
        self.lost: str | None = None
        """Why the connection to the agent is lost; None while it is not."""
        self._connection = connection
        self._exitcode: int | None = None
        self._ended = False
        self._stacks: str | None = None
        self._evidence = ""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = "alive" if self.is_alive() else f"exitcode={self._exitcode}"
        return (
            f"<{type(self).__name__} name={self.name!r} pid={self.pid} host={self.host!r} {state}>"
        )

    @property
    def evidence(self) -> str:
        """What the counters of out-of-memory kills on the rank's host say, if SIGKILL ended the rank."""
        self._take_evidence()
        return self._evidence

    @property
    def exitcode(self) -> int | None:
        """The exit code; -N if signal N ended it, None while it runs or if the code is unknown."""
        self._collect()
        return self._exitcode

    def is_alive(self) -> bool:
        """Whether the process still runs, as far as this machine knows."""
        self._collect()
        return not self._ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most ``timeout`` seconds."""
        until = float("inf") if timeout is None else monotonic() + timeout
        while self.is_alive():
            patience = seconds_until(until)
            poll = select.poll()
            poll.register(self.sentinel, select.POLLIN)
            if not poll.poll(patience * 1000) and monotonic() >= until:
                return

    def terminate(self) -> None:
        """Ask the agent to send SIGTERM and SIGCONT to the process and its group."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ask the agent to send SIGKILL to the process and its group."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Ask the agent to send a signal to the process and its group, unless it has ended."""
        if not self._ended:
            self._connection.control.send(frames.SIGNAL, int(number))

    def ask_stacks(self) -> bool:
        """Ask for the process's Python stacks; return whether it may answer."""
        self._stacks = None
        if self.is_alive():
            self._connection.control.send(frames.ASK)
        return not self._ended

    def take_stacks(self) -> str | None:
        """Return the stacks that `ask_stacks` asked for; None while they are not complete."""
        control = self._connection.control
        if control.next_kind() == frames.STACKS:  # a report stays unread, for the channel
            try:
                frame = control.receive()
            except EOFError:
                return ""
            if frame is not None:
                self.note_stacks(frame.head)
        return self._stacks

    def note_stacks(self, text: str) -> None:
        """Record the answer to a stack request."""
        self._stacks = text

    def note_evidence(self, text: str) -> None:
        """Record what the rank's host says about out-of-memory kills."""
        self._evidence = text

    def release(self) -> None:
        """Free the sentinel of a process that has ended."""
        if self._ended:
            self._connection.end.close()

    def _collect(self) -> None:
        """Record the exit code if it has come, or that none will come."""
        with self._lock:
            if self._ended:
                return
            try:
                code = _peek(self.sentinel)
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            if code is None:
                return
            if len(code) == NUMBER:
                number = int.from_bytes(code, "big", signed=True)
                self._exitcode = None if number == UNKNOWN else number
                self._ended = True
                self._take_evidence()  # now, as the connection may be closed later
            else:
                self._lose("the connection was closed")

    def _take_evidence(self) -> None:
        control = self._connection.control
        if control.next_kind() == frames.EVIDENCE:  # a report stays unread
            try:
                frame = control.receive()
            except EOFError:
                return
            if frame is not None:
                self._evidence = frame.head

    def _lose(self, why: str) -> None:
        agent = f"its agent (process {self._connection.hello['pid']} on {self.host})"
        self.lost = f"contact with {agent} is gone: {why}"
        self._ended = True


class RemoteChannel:
    """An `ErrorChannel` over an agent's control connection, which also carries stacks and evidence."""

    def __init__(self, connection: AgentConnection, process: RemoteProcess) -> None:
        self._control = connection.control
        self._offset = connection.clock_offset
        self._process = process
        self._fd = self._control.fileno()
        self._result: memoryview | None = None
        self._error: OSError | None = None  # why a result that came was not stored
        self._closed = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def receive(self) -> Report | None:
        """Return the report if it is complete, else None.

        Raises:
            EOFError: none will come.
            ValueError: the received data is not a report.
            OSError: the received result could not be stored.
        """
        if self._closed:
            raise EOFError("the channel is closed")
        while (frame := self._receive()) is not None:
            if frame.kind == frames.RESULT:
                self._error = frame.error
                if self._error is None:
                    self._result = _map_whole(frame.body)
            elif frame.kind == frames.STACKS:
                self._process.note_stacks(frame.head)
            elif frame.kind == frames.EVIDENCE:
                self._process.note_evidence(frame.head)
            elif frame.kind == frames.REPORT:
                return self._to_report(frame.head)
        return None

    def close(self) -> None:
        """Stop reading.  The connection stays open until the launch has finished."""
        self._closed = True

    def _receive(self) -> frames.Frame | None:
        try:
            return self._control.receive()
        except frames.GarbledError as error:  # not as EOFError: the agent may still run
            raise ValueError(str(error)) from None

    def _to_report(self, fields: dict[str, Any]) -> Report:
        report = Report(**fields)
        if not all(map(isinstance, report, _KINDS_OF_FIELDS)):
            raise ValueError("the data is not a report")
        time = report.time + self._offset
        if self._error is not None:
            if self._error.errno not in NO_DESCRIPTORS:
                raise self._error
            return miss_result(self._error, time)
        result = report.result if self._result is None else self._result
        return report._replace(time=time, result=result)


_KINDS_OF_FIELDS: tuple[Any, ...] = (
    *(str, int, str, str, str),
    *((bytes, type(None)), (bytes, type(None))),
)
"""The types of the fields of a report, as an agent sends them."""


def _map_whole(fd: int) -> memoryview:
    try:
        return map_file(fd)
    finally:
        os.close(fd)


def _peek(fd: int) -> bytes | None:
    """Return the data that has come on a connection, without consuming it; None if there is none yet."""
    sock = fds.Borrowed(fileno=fd)
    sock.setblocking(False)
    try:
        data = sock.recv(NUMBER, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    else:
        return None if 0 < len(data) < NUMBER else data
    finally:
        sock.detach()
