"""Defers signals while ranks are being started: none is started and then forgotten.

Ctrl-C waits until the rank at hand has been started, and after the last one until a context owns them all.
So from the first rank on, an interrupt at any line finds an owner that ends them.  What asks the caller to
end, or to be suspended, waits until all have been started, and somebody waits for them
(`procession._supervise.forwarding`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

signal: Any = __import__("_signal")  # without the enums of `signal`, which would cost a forked rank

_original: Callable[[int, FrameType | None], Any] | None = None  # SIGINT's, while it is deferred
_interrupts: list[
    FrameType | None
] = []  # where the last SIGINT found this process, if one has come
_in_start = False  # whether the main thread starts a launch
_lasts = False  # whether SIGINT stays deferred until that launch has a context

_ENDINGS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGTSTP") if hasattr(signal, name)
)
_deferred: dict[int, Any] = {}  # the signals that wait, and what handles each
_came: list[int] = []  # those that have come
_owner = 0  # the process that defers them: a fork of it has the handler, too
_aborts = False  # whether one that comes ends the start of ranks


class AskedToEnd(BaseException):  # as KeyboardInterrupt, no error
    """Raised in a start of ranks that may take long, where none has begun yet, by what asks for an end."""


@contextmanager
def deferred_endings(*others: int) -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM, SIGHUP, SIGTSTP and other signals in the main thread, until `take_deferred`.

    What the block leaves deferred acts after it.  The block is given a function that tells whether
    one has come.
    """
    global _owner
    if threading.current_thread() is not threading.main_thread() or _deferred:
        yield lambda: bool(_came)
        return
    _owner = os.getpid()
    try:
        for number in (*_ENDINGS, *others):
            current = signal.getsignal(number)
            if current not in (None, signal.SIG_IGN):  # set in C; ignored
                _deferred[number] = current
                signal.signal(number, _defer)
        yield lambda: bool(_came)
    finally:
        for number in take_deferred():
            signal.raise_signal(number)


def take_deferred() -> list[int]:
    """Put handlers back; return the signals that have come meanwhile, in order."""
    for number, previous in _deferred.items():
        if signal.getsignal(number) is _defer:
            signal.signal(number, previous)
    came = list(_came)
    _deferred.clear()
    _came.clear()
    return came


@contextmanager
def aborted_by_endings() -> Iterator[None]:
    """Let a deferred signal act in the block, which ends by it: ranks that have not begun lose nothing."""
    global _aborts
    try:
        _aborts = True
        yield
    finally:
        _aborts = False


def _defer(number: int, frame: FrameType | None) -> None:
    previous = _deferred.get(number, signal.SIG_DFL)
    if os.getpid() != _owner:  # a fork that has yet to put it back
        signal.signal(number, previous)
        signal.raise_signal(number)
    elif not _aborts or number not in (signal.SIGTERM, getattr(signal, "SIGHUP", 0)):
        _came.append(number)
    elif callable(previous):
        previous(number, frame)
    else:
        _came.append(number)
        raise AskedToEnd


@contextmanager
def defer_sigint(*, until_owned: bool = False) -> Iterator[Callable[[], None]]:
    """Run the block without KeyboardInterrupt; an interrupt that came meanwhile is raised after it.

    The block is given a function that raises one where it is called.  With ``until_owned`` the block starts
    ranks: in the start of a launch, interrupts then wait until the launch has a context
    (`until_context`).
    """
    global _lasts
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread is interrupted
        return
    if _original is not None:  # a block around this one defers them already
        _lasts |= until_owned and _in_start
        yield _let_through
        return
    if not _defer_interrupts():
        yield lambda: None
        return
    _lasts = until_owned and _in_start
    try:
        yield _let_through
    finally:
        if not _lasts:
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
    """Have SIGINT noted rather than handled; return False where no handler in Python would be called."""
    global _original
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        return False
    _interrupts.clear()
    signal.signal(signal.SIGINT, _note_interrupt)
    _original = handler
    return True


def _admit_interrupts() -> None:
    """Put the handler of SIGINT back, and call it if it would have been called meanwhile."""
    global _original, _lasts
    handler, _original, _lasts = _original, None, False
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
    """Forget, in a process forked meanwhile whose handlers have been put back, that they are deferred."""
    global _original, _in_start, _lasts
    _original = None
    _in_start = _lasts = False
    _deferred.clear()
    _came.clear()
