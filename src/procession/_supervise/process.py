"""The process of a rank on this machine, as its caller sees it."""

from __future__ import annotations

import os
import signal
import sys
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
from procession._python.clock import monotonic
from procession._python.deadlines import seconds_until
from procession._supervise.process_attributes import ProcessAttributes
from procession._supervise.stack_request import StackRequest

if TYPE_CHECKING:
    from procession._python.greenlets import ChildWatch


class RankProcess(ProcessAttributes):
    """A rank that is a child of this process, with the attributes of a `multiprocessing.Process`.

    ``sentinel`` is a pidfd.  It is readable once the process has ended, even if a child of the process still
    holds its pipes.
    """

    def __init__(self, pid: int, pidfd: int, *, name: str, daemon: bool, mark: int = 0) -> None:
        self.pid = pid
        self.name = name
        self.daemon = daemon
        self.sentinel: int = fds.keep(pidfd)
        self._exitcode: int | None = None
        self._ended = self._released = False
        self.leaves_group: bool = False
        """Whether the process has ended and others may be left in its process group."""
        self.is_wrapped: bool = False
        """Whether this process is a wrapper, and the rank one of its descendants."""
        self._mark = mark
        self._stack_request: StackRequest | None = None
        self._lock = unpatched.RLock()
        self._watch = self._watch_end() if "gevent.hub" in sys.modules else None

    @classmethod
    def of_child(cls, pid: int, *, name: str, daemon: bool, mark: int = 0) -> RankProcess:
        """Return the process object of a child just started; end the child if that fails.

        ``mark`` is the mark of its launch, or 0: then the process group of a child that fails is killed.
        """
        return cls(pid, hold_child(pid), name=name, daemon=daemon, mark=mark)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive() else f"exitcode={self._exitcode}"
        return f"<{type(self).__name__} name={self.name!r} pid={self.pid} {state}>"

    @property
    def exitcode(self) -> int | None:
        """The exit code; -N if signal N ended it, None while it runs or if the code is unknown."""
        self._collect(0)
        return self._exitcode

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        self._collect(0)
        return not self._ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most ``timeout`` seconds."""
        if not self._ended:
            until = float("inf") if timeout is None else monotonic() + timeout
            while not self._has_ended(seconds_until(until)):
                if monotonic() >= until:
                    return
            self._collect(1)

    def terminate(self) -> None:
        """Send SIGTERM to the process, then SIGCONT, without which a stopped process would not act.

        Processes of its group get SIGTERM, too, if they have a handler for it.  If the rank runs under
        wrapper commands, the whole group gets it.
        """
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the process and its group."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process and its group, unless it has ended; never to a reused pid."""
        with self._lock:
            if self._ended:
                return
            try:
                syscalls.pidfd_send_signal(
                    self.sentinel, 0
                )  # raises if the pid is no longer its own
                if not self._signal_group(number):
                    syscalls.pidfd_send_signal(self.sentinel, number)
            except OSError:  # it is gone
                pass

    def ask_stacks(self) -> bool:
        """Ask for the process's Python stacks; return whether it can answer.  Never blocks."""
        with self._lock:
            self._drop_stack_request()
            if self._has_ended():  # only `_collect` reaps it, so the pid is still its own
                return False
            self._stack_request = StackRequest(self.pid, self._send_alone)
            asked = self._stack_request.ask()
            if not asked:
                self._drop_stack_request()
            return asked

    def take_stacks(self) -> str | None:
        """Return the stacks that `ask_stacks` asked for; None while they are not complete."""
        with self._lock:
            text = self._stack_request.take() if self._stack_request is not None else None
            if text is not None:
                self._drop_stack_request()
            return text

    def release(self) -> None:
        """Free the sentinel of a process that has ended."""
        with self._lock:
            self._drop_stack_request()
            if self._ended and not self._released:  # once: the descriptor may be reused afterwards
                self._released = True
                fds.drop(self.sentinel)

    def _send_alone(self, number: int) -> None:
        try:
            syscalls.pidfd_send_signal(self.sentinel, number)
        except OSError:  # it is gone
            pass

    def _drop_stack_request(self) -> None:
        if self._stack_request is not None:
            self._stack_request.close()
            self._stack_request = None

    def _collect(self, patience: float) -> None:  # noqa: ARG002  # overridden by the forkserver's
        """Record the exit code if the process has ended.

        ``patience`` bounds the wait (seconds) for a forkserver's answer.
        """
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
        """Record what is known of a process that other code reaped (or the kernel, if SIGCHLD is ignored)."""
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
        """Make gevent keep the exit status, in case it reaps this child before `_collect` does."""
        from procession._python.greenlets import watch_child

        return watch_child(self.pid)

    def _signal_group(self, number: int) -> bool:
        """Signal the group that the process leads; return whether it leads one.

        Only for a process that is not reaped, so that the pid is still its own.
        """
        if number == signal.SIGTERM and not self.is_wrapped:
            terminate_child(self.pid)
            return True
        return signal_group(self.pid, number)
