"""Passes signals that the caller gets on to the ranks, while it waits for them.

Schedulers, service managers and containers send SIGTERM to the main process alone, and a terminal's Ctrl-Z
reaches only the group in its foreground, in which no rank is.  So the first wait in the main thread
installs handlers of SIGTERM, SIGHUP and SIGTSTP, each where the signal has its default action, and of what
`Signals.forward` names.  They stay until no launch is left that was waited for.

A handler runs in the main thread, between any two of its instructions: perhaps inside a wait.  It
begins the stop, which does not block, and leaves it to that wait to carry it through.  Where the main
thread does not wait (it may be between two calls of ``join``), the handler carries it through itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from procession._python.defer_signals import take_deferred
from procession._python.imported import get_if_imported
from procession._supervise.launches import list_running

if TYPE_CHECKING:
    from procession._supervise.supervisor import Supervisor

ENDING: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask the caller to end: it ends by them, after its ranks."""

SUSPENDING: int | None = getattr(signal, "SIGTSTP", None)
"""The signal of Ctrl-Z."""

_ATTEMPTS = 3  # to see a launch end

_waited: weakref.WeakSet[Supervisor] = (
    weakref.WeakSet()
)  # the launches that handlers are installed for
_replaced: dict[int, Any] = {}  # what each of our handlers stands for
_depth = 0  # of waits in the main thread
_ending = 0  # the signal that this process is to end by, once its ranks have
_owner = 0  # the process that has installed the handlers: a fork of it has them, too


@contextmanager
def waiting(supervisor: Supervisor) -> Iterator[None]:
    """Forward signals to ranks while the block waits for a launch, in the main thread.

    If the caller has been asked to end meanwhile, the block is not left: the process ends.
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
        if _ending:  # who interrupts now does not want to wait for the grace period
            for running in list_running():
                running.hurry()
        raise
    finally:
        _depth -= 1
        if _ending:
            _end()
        _put_back_if_done()


def _install(supervisor: Supervisor) -> None:
    """Install what handlers a launch needs that are not installed yet."""
    global _owner, _depth, _ending
    if _owner != os.getpid():
        _owner, _depth, _ending = os.getpid(), 0, 0
        _waited.clear()
        _replaced.clear()
    if supervisor in _waited or supervisor.finished:
        return
    came = take_deferred()
    _waited.add(supervisor)
    for number in ENDING:
        if signal.getsignal(number) is get_if_imported("procession._rank.stop_request", "note"):
            _replace(number, _on_noted, only_default=False)  # of `stop_requested`
        else:
            _replace(number, _on_ending, only_default=True)
    if SUSPENDING is not None:
        _replace(SUSPENDING, _on_suspend, only_default=True)
    for number in supervisor.launch.signals.forward:
        _replace(number, _on_forward, only_default=False)
    for number in came:
        signal.raise_signal(number)


def _replace(number: int, handler: Callable[..., None], *, only_default: bool) -> None:
    current = signal.getsignal(number)
    if current is not handler and (current == signal.SIG_DFL or not only_default):
        _replaced[number] = current
        signal.signal(number, handler)


def _put_back_if_done() -> None:
    """Put back what our handlers stand for, once no launch needs them."""
    _waited.difference_update([supervisor for supervisor in _waited if supervisor.finished])
    if not _waited:
        for number in list(_replaced):
            _put_back(number)


def _put_back(number: int) -> None:
    """Put back one handler, unless somebody has replaced ours."""
    previous = _replaced.pop(number)
    if signal.getsignal(number) in _HANDLERS:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _on_ending(number: int, _: object) -> None:
    """Pass the signal on to all ranks, and end by it once they have ended; later ones change nothing."""
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
    """Have `stop_requested` tell of the signal here, and in all ranks; this process ends when it wants to."""
    if os.getpid() == _owner:
        for supervisor in list_running():
            supervisor.stop(by=number)
    _replaced[number](number, frame)


def _on_suspend(number: int, _: object) -> None:
    """Suspend all ranks and this process; once it goes on, let them go on."""
    supervisors = list_running() if os.getpid() == _owner else []
    for supervisor in supervisors:
        supervisor.signal(number)
    began = time.monotonic()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)  # here the process is stopped
    signal.signal(number, _on_suspend)
    for supervisor in supervisors:
        supervisor.extend(time.monotonic() - began)
        supervisor.signal(signal.SIGCONT)


def _on_forward(number: int, frame: Any) -> None:
    """Pass the signal on to the ranks that want it, and to the caller's own handler."""
    running = list_running() if os.getpid() == _owner else []
    wanting = [supervisor for supervisor in running if number in supervisor.launch.signals.forward]
    for supervisor in wanting:
        supervisor.signal(number)
    previous = _replaced.get(number)
    if callable(previous):
        previous(number, frame)
    elif previous == signal.SIG_DFL and not wanting:
        _die(number)


def _end() -> None:
    """See the ranks end, and end this process by the signal that it got."""
    for supervisor in list_running():
        for _ in range(_ATTEMPTS):
            try:
                supervisor.run()
                break
            except (
                BaseException
            ) as error:  # of a signal handler, or of what a backend does at the end
                if isinstance(error, KeyboardInterrupt):
                    supervisor.hurry()
    _die(_ending)


def _die(number: int) -> None:
    """End by the default action of a signal; the kernel spares process 1 of a container."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)


_HANDLERS = (_on_ending, _on_noted, _on_suspend, _on_forward)
