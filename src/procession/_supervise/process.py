"""A rank's process on this machine, as its launcher sees it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from procession._cleanup.children import (
    collect_child,
    hold_child,
    leaves_group,
    signal_group,
    terminate_child,
)
from procession._linux import fds, syscalls
from procession._python import unpatched
from procession._supervise.process_attributes import ProcessAttributes
from procession._supervise.stack_request import Inquiry

if TYPE_CHECKING:
    from procession._python.greenlets import ChildWatch

_LONGEST_WAIT = 86_400.0  # seconds: poll(2) takes at most 24 days


class RankProcess(ProcessAttributes):
    """A child of this process that is a rank, with the attributes of a `multiprocessing.Process`.

    ``sentinel`` is a pidfd: readable when the process has ended, whoever else holds its pipes.
    """

    def __init__(self, pid: int, pidfd: int, *, name: str, daemon: bool, mark: int = 0) -> None:
        self.pid = pid
        self.name = name
        self.daemon = daemon
        self.sentinel: int = fds.keep(pidfd)
        self._exitcode: int | None = None
        self._ended = self._released = False
        self.leaves_group: bool = (
            False  # there may be something in its group, now that it has ended
        )
        self.is_wrapped: bool = (
            False  # whether the rank is not the process itself, but one below it
        )
        self._mark = mark
        self._inquiry: Inquiry | None = None
        self._lock = unpatched.RLock()
        self._watch = self._watch_end() if "gevent.hub" in sys.modules else None

    @classmethod
    def of_child(cls, pid: int, *, name: str, daemon: bool, mark: int = 0) -> RankProcess:
        """Return the process object of a child just started; if that fails, the child is ended.

        ``mark`` is that of its launch, 0 where what it leaves in its group is to be ended with it.
        """
        return cls(pid, hold_child(pid), name=name, daemon=daemon, mark=mark)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive() else f"exitcode={self._exitcode}"
        return f"<{type(self).__name__} name={self.name!r} pid={self.pid} {state}>"

    @property
    def exitcode(self) -> int | None:
        """None while it runs, or where nobody knows; -N if signal N ended it."""
        self._collect(0)
        return self._exitcode

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        self._collect(0)
        return not self._ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for at most ``timeout`` seconds."""
        if not self._ended:
            until = float("inf") if timeout is None else time.monotonic() + timeout
            while not self._has_ended(min(max(until - time.monotonic(), 0), _LONGEST_WAIT)):
                if time.monotonic() >= until:
                    return
            self._collect(1)

    def terminate(self) -> None:
        """Send SIGTERM to it, and SIGCONT, without which a stopped one never acts.

        What it has started gets SIGTERM too, where it has a handler for that; all of it gets that where the
        rank itself runs under other commands.
        """
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to it and its group."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its group, if it has not ended; never to a stranger."""
        with self._lock:
            if self._ended:
                return
            try:
                syscalls.pidfd_send_signal(self.sentinel, 0)  # is its number still its own?
                if not self._signal_group(number):
                    syscalls.pidfd_send_signal(self.sentinel, number)
            except OSError:  # it is gone
                pass

    def ask_stacks(self) -> bool:
        """Ask for the process's Python stacks; return whether it can answer.  Never blocks."""
        with self._lock:
            self._drop_inquiry()
            if self._has_ended():  # not reaped before `_collect`: the number is its own
                return False
            self._inquiry = Inquiry(self.pid, self._send_alone)
            asked = self._inquiry.ask()
            if not asked:
                self._drop_inquiry()
            return asked

    def take_stacks(self) -> str | None:
        """Return the stacks that were asked for; None as long as they are not complete."""
        with self._lock:
            text = self._inquiry.take() if self._inquiry is not None else None
            if text is not None:
                self._drop_inquiry()
            return text

    def release(self) -> None:
        """Free the sentinel of a process that has ended."""
        with self._lock:
            self._drop_inquiry()
            if self._ended and not self._released:  # its number may be another's afterwards
                self._released = True
                fds.drop(self.sentinel)

    def _send_alone(self, number: int) -> None:
        try:
            syscalls.pidfd_send_signal(self.sentinel, number)
        except OSError:  # it is gone
            pass

    def _drop_inquiry(self) -> None:
        if self._inquiry is not None:
            self._inquiry.close()
            self._inquiry = None

    def _collect(self, patience: float) -> None:  # noqa: ARG002  # a served process needs it
        """Note the exit code if it has ended; ``patience`` bounds what a server's word may take."""
        with self._lock:
            if self._ended:
                return
            try:
                code = collect_child(self.pid, self._mark)
            except ChildProcessError:
                self._collect_reaped()
                return
            if code is not None:
                self._settle(code)

    def _collect_reaped(self) -> None:
        """Learn what can be learned of a process that somebody else reaped (or that SIGCHLD did)."""
        if self._has_ended():
            status = self._watch.status if self._watch is not None else None
            if status is None:
                status = syscalls.pidfd_wait_status(self.sentinel)
            self._settle(None if status is None else os.waitstatus_to_exitcode(status))

    def _has_ended(self, patience: float = 0) -> bool:
        return unpatched.wait_readable(self.sentinel, patience)

    def _settle(self, code: int | None) -> None:
        self._exitcode, self._ended = code, True
        self.leaves_group = leaves_group(self.pid)
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _watch_end(self) -> ChildWatch | None:
        """Have gevent keep the exit status, if it reaps this child before `_collect` does."""
        from procession._python.greenlets import watch_child

        return watch_child(self.pid)

    def _signal_group(self, number: int) -> bool:
        """Signal the group, if it leads one; only while it is not reaped and the number is its own."""
        if number == signal.SIGTERM and not self.is_wrapped:
            terminate_child(self.pid)
            return True
        return signal_group(self.pid, number)
