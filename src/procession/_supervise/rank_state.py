"""One rank as its launch's gang keeps it: its process, its channel, and what became of it."""

from __future__ import annotations

import signal
import time

from procession._linux.procstat import is_ending, read_mask
from procession._linux.signals import name_signal
from procession._python.interpreter import doubt_interpreter
from procession._python.log import warn
from procession._supervise.channel import UnreceivedError
from procession.failure import Failure
from procession.protocol import ErrorChannel, Process, Report, Sentinel

_NO_SIGNALS: frozenset[int] = frozenset()


class RankState:
    """A rank's handles and what is known of its end.  Times are `time.monotonic_ns`."""

    def __init__(
        self, rank: int, process: Process, sentinel: Sentinel, channel: ErrorChannel
    ) -> None:
        self.rank = rank
        self.process = process
        self.sentinel = sentinel
        self.channel = channel
        self.report: Report | None = None
        self.reported: int = 0
        self.ended: int = 0
        self.exitcode: int | None = None
        self.lost: str = ""
        self.stopped: int = 0
        self.sent: frozenset[int] = _NO_SIGNALS
        self._abandoned = self._released = self._unreceived = False
        self._was_ending = False

    def take_report(self) -> bool:
        """Read the channel; return whether more may come."""
        try:
            report = self.channel.receive()
        except EOFError:
            return False
        except UnreceivedError as error:
            self._unreceived = True
            report = error.report
        except Exception as error:  # whatever one rank sends, the others are to be ended
            report = Report("unreadable", text=f"{type(error).__name__}: {error}")
        if report is None:
            return True
        self.report, self.reported = report, time.monotonic_ns()
        return False

    def close(self) -> None:
        """Close the channel; it stays open where `release` may yet receive what came on it."""
        if not self._unreceived:
            self.channel.close()

    def note_end(self) -> None:
        """Note that the process has ended, and how."""
        self.process.join(1)
        self.exitcode = self.process.exitcode
        self.lost = getattr(self.process, "lost", None) or ""
        self.ended = time.monotonic_ns()

    def abandon(self, why: str) -> None:
        """Give up on a process that does not end."""
        self._abandoned = True
        self.ended, self.lost = time.monotonic_ns(), why

    def release(self) -> None:
        """Release the process object, once, after its process has ended; call it as often as you like.

        A process that was abandoned may still run.  It keeps what it holds: a later call releases it if it
        has ended by then.  What no descriptor was left for is received now, if this has set one free.
        """
        if self._released or not self.ended or (self._abandoned and self.process.is_alive()):
            return
        self._released = True  # first: a signal handler may call this again
        release_process(self.process)
        if self._unreceived:
            try:
                self.take_report()
            finally:
                self.channel.close()

    def stop(self, number: int) -> None:
        """Send a signal that stops it, and remember that its end is then our doing, unless it has begun."""
        send = getattr(self.process, "send_signal", None)
        if number == signal.SIGINT and send is None:
            number = signal.SIGTERM  # not every process can be interrupted
        if not self.stopped:
            self._was_ending = not self.is_remote and is_ending(self.process.pid)
            self.stopped = time.monotonic_ns()
        self.sent |= {number}
        if number == signal.SIGTERM:
            self.process.terminate()
        elif number != signal.SIGKILL and send is not None:
            send(number)
        else:
            self.process.kill()

    def catches(self, number: int) -> bool:
        """Whether the rank can be sent a signal and is seen to have a handler for it."""
        process = self.process
        if self.is_remote:
            return False
        if number != signal.SIGTERM and not hasattr(process, "send_signal"):
            return False
        return bool(read_mask(process.pid, "SigCgt") >> (number - 1) & 1)

    def heeds_termination(self) -> bool:
        """Whether the rank has a handler for SIGTERM that can run; taken for granted on other hosts."""
        if self.is_remote:
            return True
        blocked = read_mask(self.process.pid, "SigBlk") >> (signal.SIGTERM - 1) & 1
        return self.catches(signal.SIGTERM) and not blocked

    def failure(self, allow_early_exit: bool) -> Failure | None:
        """Say how the rank failed; None if it has not (yet)."""
        report = self.report
        if report is not None and report.kind == "raised":
            return self._raised(report)
        if report is not None and report.kind == "unreadable":
            return self._unreadable(report)
        if report is not None and report.kind == "exited":
            return self._exited(_exit_code(self.exitcode, report), report.text)
        if not self.ended:
            return None
        if self.lost or (self.exitcode is None and report is None):
            return self._lost()
        if self.exitcode:
            return self._exited(self.exitcode, self._after_return())
        if report is None and (self._is_unread or not allow_early_exit):
            why = self._after_return() or (
                "before its function returned: something in it ended the process"
            )
            return self._exited(0, why)
        return None

    def _raised(self, report: Report) -> Failure:
        return self._failure("raised", report.time or self.reported)._replace(
            type_name=report.type_name,
            message=report.message,
            traceback=report.text,
            pickled=report.exception,
            exit_code=self.exitcode,
        )

    def _exited(self, code: int, text: str) -> Failure:
        report = self.report
        when = report.time if report is not None and report.kind == "exited" else self.ended
        return self._failure("exited", when)._replace(
            exit_code=code,
            signal_name=name_signal(-code) if code < 0 else None,
            message="" if text == str(code) else text,
        )

    def _unreadable(self, report: Report) -> Failure:
        return self._failure("lost", self.reported)._replace(
            message=f"what it sent cannot be read: {report.text}",
            exit_code=self.exitcode,
            collateral=0 < self.stopped < self.reported,
        )

    def _lost(self) -> Failure:
        why = self.lost or "somebody else collected its exit status, and it left no report"
        return self._failure("lost", self.ended)._replace(message=why)

    def _failure(self, kind: str, when: int) -> Failure:
        return Failure(
            rank=self.rank,
            kind=kind,
            pid=self.process.pid,
            host=getattr(self.process, "host", None),
            time=when,
            collateral=self._is_collateral(when),
            reported=self._has_reported_failure(),
        )

    def _is_collateral(self, when: int) -> bool:
        """Whether we ended it: it failed after we told it to stop, and of what we sent.

        Not so one that had begun to end by then, unseen: its peers react as soon as the kernel has closed
        its connections.
        """
        if not self.stopped:
            return False
        if (self.exitcode or 0) < 0 and not self._has_reported_failure():
            late = when > self.stopped + _LATE and not self._was_ending
            return -(self.exitcode or 0) in self.sent or late
        return when > self.stopped and not self._was_ending

    def _has_reported_failure(self) -> bool:
        return self.report is not None and self.report.kind in ("raised", "exited")

    def _after_return(self) -> str:
        if self.report is not None:
            return "after its function had returned"
        if self._is_unread and self.exitcode is not None and self.exitcode >= 0:
            return f"before it had read what it is to do; {doubt_interpreter()}"
        return ""

    @property
    def is_remote(self) -> bool:
        """Whether the process runs on another host, where its pid says nothing here."""
        return bool(getattr(self.process, "host", None))

    @property
    def _is_unread(self) -> bool:
        """Whether the process ended before it had read what it is to do: it may be no rank at all."""
        return getattr(self.channel, "left_unread", False)


def release_process(process: Process) -> None:
    """Call the ``release`` of a process, if it has one.  Log what that raises: the outcome is known."""
    release = getattr(process, "release", None)
    if release is not None:
        try:
            release()
        except Exception as error:
            warn(
                "release() of process %s has raised %s: %s",
                process.pid,
                type(error).__name__,
                error,
            )


_LATE = 1_000_000_000
"""A death that follows our signal by more than this (in ns) is a consequence of it, whatever killed."""


def _exit_code(exitcode: int | None, report: Report) -> int:
    """Return the code that a rank gave to `sys.exit`, however its process then ended."""
    if exitcode is not None and exitcode > 0:
        return exitcode
    try:
        return (int(report.text) & 0xFF) or 1
    except ValueError:
        return 1
