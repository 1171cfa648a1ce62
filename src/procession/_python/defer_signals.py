"""Defers signals while ranks start, so that no rank is started and then forgotten.

Ctrl-C waits until the current rank has started, and after the last rank until a context owns them all.  So
from the first rank on, an interrupt at any line finds an owner that ends the ranks.  Signals that ask the
caller to end or to be suspended wait until all ranks have started and the caller waits for them
(`procession._supervise.forwarding`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

signal: Any = __import__("_signal")  # without the enums of `signal`, which cost ranks time

_original: Callable[[int, FrameType | None], Any] | None = None  # SIGINT's handler, while deferred
# the frame that the last deferred SIGINT interrupted, if one has arrived
_interrupts: list[FrameType | None] = []
_in_start = False  # whether the main thread is starting a launch
_stays_deferred = False  # whether SIGINT stays deferred until that launch has a context

_ENDINGS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGTSTP") if hasattr(signal, name)
)
_deferred: dict[int, Any] = {}  # the deferred signals, and the handler or action of each
_arrived: list[int] = []  # those that have arrived
_owner = 0  # the process that defers them: a fork of it inherits the handler
_aborts = False  # whether a request to end aborts the start of ranks


class AskedToEnd(BaseException):  # like KeyboardInterrupt, not an error
    """Raised by a signal that asks for an end, in a start that may take long, before any rank has begun."""


@contextmanager
def deferred_endings(*others: int) -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM, SIGHUP, SIGTSTP and ``others`` in the main thread, until `take_deferred`.

    Signals that are still deferred when the block ends act then.  The block receives a function that returns
    whether one has arrived.
    """
    global _owner
    if threading.current_thread() is not threading.main_thread() or _deferred:
        yield lambda: bool(_arrived)
        return
    _owner = os.getpid()
    try:
        for number in (*_ENDINGS, *others):
            current = signal.getsignal(number)
            if current not in (None, signal.SIG_IGN):  # a handler in C; ignored
                _deferred[number] = current
                signal.signal(number, _defer)
        yield lambda: bool(_arrived)
    finally:
        for number in take_deferred():
            signal.raise_signal(number)


def get_handler(number: int) -> Any:
    """Return the handler or action of a signal, also while the signal is deferred."""
    current = signal.getsignal(number)
    return _deferred.get(number, current) if current is _defer else current


def take_deferred() -> list[int]:
    """Restore the handlers; return the signals that have arrived meanwhile, in order."""
    for number, previous in _deferred.items():
        if signal.getsignal(number) is _defer:
            signal.signal(number, previous)
    arrived = list(_arrived)
    _deferred.clear()
    _arrived.clear()
    return arrived


@contextmanager
def aborted_by_endings() -> Iterator[None]:
    """Let a deferred signal act in the block and end it: ranks that have not begun lose nothing."""
    global _aborts
    try:
        _aborts = True
        yield
    finally:
        _aborts = False


def _defer(number: int, frame: FrameType | None) -> None:
    previous = _deferred.get(number, signal.SIG_DFL)
    if os.getpid() != _owner:  # a fork that has not restored the handler yet
        signal.signal(number, previous)
        signal.raise_signal(number)
    elif not _aborts or number not in (signal.SIGTERM, getattr(signal, "SIGHUP", 0)):
        _arrived.append(number)
    elif callable(previous):
        previous(number, frame)
    else:
        _arrived.append(number)
        raise AskedToEnd


@contextmanager
def defer_sigint(*, until_owned: bool = False) -> Iterator[Callable[[], None]]:
    """Run the block without KeyboardInterrupt; an interrupt that arrives meanwhile is raised after it.

    The block receives a function that raises a pending interrupt where it is called.  With ``until_owned``
    the block starts ranks: in the start of a launch, interrupts then wait until the launch has a context
    (`until_context`).
    """
    global _stays_deferred
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # Python interrupts only the main thread
        return
    if _original is not None:  # an enclosing block already defers them
        _stays_deferred |= until_owned and _in_start
        yield _let_through
        return
    if not _defer_interrupts():
        yield lambda: None
        return
    _stays_deferred = until_owned and _in_start
    try:
        yield _let_through
    finally:
        if not _stays_deferred:
            _admit_interrupts()


@contextmanager
def until_context() -> Iterator[None]:
    """Start a launch in the block: what `defer_sigint` defers ``until_owned`` acts after the block."""
    global _in_start
    outermost = not _in_start and threading.current_thread() is threading.main_thread()
    try:
        _in_start |= outermost
        yield
    finally:
        if outermost:
            _in_start = False
            if _original is not None:
                _admit_interrupts()


def _defer_interrupts() -> bool:
    """Record SIGINT instead of handling it; return False if no handler in Python would be called."""
    global _original
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        return False
    _interrupts.clear()
    signal.signal(signal.SIGINT, _note_interrupt)
    _original = handler
    return True


def _admit_interrupts() -> None:
    """Restore the handler of SIGINT, and call it if a SIGINT has arrived meanwhile."""
    global _original, _stays_deferred
    handler, _original, _stays_deferred = _original, None, False
    if handler is not None:
        if signal.getsignal(signal.SIGINT) is _note_interrupt:
            signal.signal(signal.SIGINT, handler)
        if _interrupts:
            handler(signal.SIGINT, _interrupts.pop())


def _note_interrupt(_: int, frame: FrameType | None) -> None:
    _interrupts[:] = [frame]


def _let_through() -> None:
    if _interrupts and _original is not None:
        _original(signal.SIGINT, _interrupts.pop())


def list_deferred() -> dict[int, Any]:
    """Return the signals that are deferred now, each with its handler or action."""
    return _deferred if _original is None else {**_deferred, signal.SIGINT: _original}


def forget_deferred() -> None:
    """Forget deferred signals, in a process that was forked meanwhile and has its handlers back."""
    global _original, _in_start, _stays_deferred
    _original = None
    _in_start = _stays_deferred = False
    _deferred.clear()
    _arrived.clear()
