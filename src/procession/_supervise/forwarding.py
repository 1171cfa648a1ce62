"""Forwards signals from the caller to the ranks.

Schedulers, service managers and containers send SIGTERM to the main process alone, and a terminal's Ctrl-Z
reaches only its foreground process group, which contains no rank.  So the first wait in the main thread
installs handlers for SIGTERM, SIGHUP and SIGTSTP, each only if the signal has its default action, and for
the signals in `Signals.forward`.  The handlers stay until every launch that was waited for has finished.

A handler runs in the main thread, between any two of its instructions, perhaps inside a wait.  It begins the
stop, which does not block, and the wait carries it through.  If the main thread is not in a wait (for example
between two calls of ``join``), the handler carries it through itself.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from procession._python.clock import monotonic
from procession._python.defer_signals import get_handler, take_deferred
from procession._python.imported import get_if_imported
from procession._supervise.launches import list_running

if TYPE_CHECKING:
    from procession._supervise.supervisor import Supervisor

ENDING: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask the caller to end; it ends by the signal, after its ranks."""

SUSPENDING: int | None = getattr(signal, "SIGTSTP", None)
"""The signal of Ctrl-Z."""

_ATTEMPTS = 3  # at waiting for a launch to end

_waited: weakref.WeakSet[Supervisor] = weakref.WeakSet()  # launches that need the handlers
_replaced: dict[int, Any] = {}  # the handler that each of ours replaces, by signal
_depth = 0  # the number of nested waits in the main thread
_ending = 0  # the signal by which this process ends after its ranks, or 0
_owner = 0  # the process that installed the handlers; its forks inherit them


@contextmanager
def waiting(supervisor: Supervisor) -> Iterator[None]:
    """Forward signals to the ranks while the block waits for a launch in the main thread.

    If one of `ENDING` arrives meanwhile, the process ends at the end of the block.
    """
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _install(supervisor)
    _depth += 1
    try:
        yield
    except KeyboardInterrupt:
        if _ending:  # Ctrl-C after SIGTERM: skip the grace period
            for running in list_running():
                running.hurry()
        raise
    finally:
        _depth -= 1
        if _ending:
            _end()
        _restore_if_done()


def _install(supervisor: Supervisor) -> None:
    """Install the handlers that a launch needs and that are not installed yet."""
    global _owner, _depth, _ending
    if _owner != os.getpid():
        _owner, _depth, _ending = os.getpid(), 0, 0
        _waited.clear()
        _replaced.clear()
    if supervisor in _waited or supervisor.finished:
        return
    _waited.add(supervisor)
    for number in ENDING:
        if get_handler(number) is get_if_imported("procession._rank.stop_request", "note"):
            _replace(number, _on_noted, only_default=False)  # the handler of `stop_requested`
        else:
            _replace(number, _on_ending, only_default=True)
    if SUSPENDING is not None:
        _replace(SUSPENDING, _on_suspend, only_default=True)
    for number in supervisor.launch.signals.forward:
        _replace(number, _on_forward, only_default=False)
    for (
        number
    ) in take_deferred():  # not before ours are there: one by default would end this process
        signal.raise_signal(number)


def _replace(number: int, handler: Callable[..., None], *, only_default: bool) -> None:
    current = get_handler(number)
    if current is not handler and (current == signal.SIG_DFL or not only_default):
        _replaced[number] = current
        signal.signal(number, handler)


def _restore_if_done() -> None:
    """Restore the previous handlers once no launch needs ours."""
    _waited.difference_update([supervisor for supervisor in _waited if supervisor.finished])
    if not _waited:
        for number in list(_replaced):
            _restore(number)


def _restore(number: int) -> None:
    """Restore one previous handler, unless other code has replaced ours."""
    previous = _replaced.pop(number)
    if signal.getsignal(number) in _HANDLERS:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _on_ending(number: int, _: object) -> None:
    """Forward the signal to all ranks, and end by it once they have ended; later signals change nothing."""
    global _ending
    if os.getpid() != _owner:
        _die(number)
    if not _ending:
        _ending = number
        for supervisor in list_running():
            supervisor.stop(by=number)
    if not _depth:
        _end()


def _on_noted(number: int, frame: Any) -> None:
    """Make `stop_requested` return True here and in all ranks; this process decides when it ends."""
    if os.getpid() == _owner:
        for supervisor in list_running():
            supervisor.stop(by=number)
    _replaced[number](number, frame)


def _on_suspend(number: int, _: object) -> None:
    """Suspend all ranks and this process; resume the ranks once this process goes on."""
    supervisors = list_running() if os.getpid() == _owner else []
    for supervisor in supervisors:
        supervisor.signal(number)
    began = monotonic()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)  # the process stops here
    signal.signal(number, _on_suspend)
    for supervisor in supervisors:
        supervisor.extend(monotonic() - began)
        supervisor.signal(signal.SIGCONT)


def _on_forward(number: int, frame: Any) -> None:
    """Forward the signal to the launches that ask for it, and call the caller's own handler."""
    running = list_running() if os.getpid() == _owner else []
    targets = [supervisor for supervisor in running if number in supervisor.launch.signals.forward]
    for supervisor in targets:
        supervisor.signal(number)
    previous = _replaced.get(number)
    if callable(previous):
        previous(number, frame)
    elif previous == signal.SIG_DFL and not targets:
        _die(number)


def _end() -> None:
    """Wait until the ranks have ended, and end this process by the signal that it got."""
    for supervisor in list_running():
        for _ in range(_ATTEMPTS):
            try:
                supervisor.run()
                break
            except BaseException as error:  # from a signal handler, or a backend's `on_finish`
                if isinstance(error, KeyboardInterrupt):
                    supervisor.hurry()
    _die(_ending)


def _die(number: int) -> None:
    """End by the default action of a signal, or by `os._exit` as process 1, which the kernel spares."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)


_HANDLERS = (_on_ending, _on_noted, _on_suspend, _on_forward)
