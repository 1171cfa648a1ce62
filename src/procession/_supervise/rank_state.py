"""What the supervisor knows of one rank: its process, its channel, its report and how it ended."""

from __future__ import annotations

import signal
import time

from procession._linux.procstat import is_ending, read_mask
from procession._linux.signals import name_signal
from procession._python.handler_errors import came_from_handler
from procession._python.interpreter import doubt_interpreter
from procession._python.log import warn
from procession._supervise.channel import UnreceivedError
from procession.failure import Failure
from procession.protocol import ErrorChannel, Process, Report, Sentinel

_NO_SIGNALS: frozenset[int] = frozenset()


class RankState:
    """The handles of one rank and the facts about its end.

    Times are `time.monotonic_ns` of this process; 0 means "not yet".
    """

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
        except Exception as error:  # a bad report fails its rank, not the supervisor
            if came_from_handler(error):  # what was to be received is still there
                raise
            report = Report("unreadable", text=f"{type(error).__name__}: {error}")
        if report is None:
            return True
        self.report, self.reported = report, time.monotonic_ns()
        return False

    def close(self) -> None:
        """Close the channel, unless a result waits on it that `release` will try to receive again."""
        if not self._unreceived:
            self.channel.close()

    def note_end(self) -> None:
        """Record that the process has ended, and how."""
        self.process.join(1)
        self.exitcode = self.process.exitcode
        self.lost = getattr(self.process, "lost", None) or ""
        self.ended = time.monotonic_ns()

    def abandon(self, why: str) -> None:
        """Stop waiting for a process that no signal ends."""
        self._abandoned = True
        self.ended, self.lost = time.monotonic_ns(), why

    def release(self) -> None:
        """Release the process object, once its process has ended.  Idempotent.

        An abandoned process may still run: a later call releases it, if it has ended by then.  A result
        that came while no descriptor was free is received now, since the release may have freed one.
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
        """Send a signal that stops the rank, and record it.

        From then on its end counts as collateral, unless the process was already ending.
        """
        send = getattr(self.process, "send_signal", None)
        if number == signal.SIGINT and send is None:
            number = signal.SIGTERM  # only processes with send_signal can be interrupted
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
        """Whether the rank can be sent this signal and `/proc` shows that it has a handler for it."""
        process = self.process
        if self.is_remote:
            return False
        if number != signal.SIGTERM and not hasattr(process, "send_signal"):
            return False
        return bool(read_mask(process.pid, "SigCgt") >> (number - 1) & 1)

    def heeds_termination(self) -> bool:
        """Whether the rank has a handler for SIGTERM and does not block it; assumed on other hosts."""
        if self.is_remote:
            return True
        blocked = read_mask(self.process.pid, "SigBlk") >> (signal.SIGTERM - 1) & 1
        return self.catches(signal.SIGTERM) and not blocked

    def failure(self, allow_early_exit: bool) -> Failure | None:
        """Return how the rank failed; None if it has not failed (yet)."""
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
                "before its function returned: something in it ended the process, or closed the descriptor "
                "of its error channel"
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
        why = (
            self.lost or "other code in the caller collected its exit status, and it left no report"
        )
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
        """Whether the launcher ended the rank: it failed after our signal, and because of it.

        A rank that was already ending when we sent the signal is not collateral.  It may be the root cause:
        its peers react as soon as the kernel closes its connections, before its end becomes visible.
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
            return f"before it read what it was to run; {doubt_interpreter()}"
        return ""

    @property
    def is_remote(self) -> bool:
        """Whether the process runs on another host, so that its pid means nothing here."""
        return bool(getattr(self.process, "host", None))

    @property
    def _is_unread(self) -> bool:
        """Whether the process ended before it read its spec; it may not be a rank at all."""
        return getattr(self.channel, "left_unread", False)


def release_process(process: Process) -> None:
    """Call the ``release`` of a process, if it has one; log what it raises, as the outcome is known."""
    release = getattr(process, "release", None)
    if release is not None:
        try:
            release()
        except Exception as error:
            if came_from_handler(error):
                raise
            warn(
                "release() of process %s has raised %s: %s",
                process.pid,
                type(error).__name__,
                error,
            )


_LATE = 1_000_000_000
"""Nanoseconds; a death that follows our signal by more counts as its consequence, whatever caused it."""


def _exit_code(exitcode: int | None, report: Report) -> int:
    """Return the exit code of a rank that called `sys.exit`, however its process then ended."""
    if exitcode is not None and exitcode > 0:
        return exitcode
    try:
        return (int(report.text) & 0xFF) or 1
    except ValueError:
        return 1
