"""Resets a forked rank's signal handlers, before one of its parent's handlers can run in it.

A signal that arrives before the reset would run the parent's handler in the rank, or wake the parent's event
loop through a descriptor that both share.  So signals are blocked from before the fork until the rank can
report what they do (`life.mask`).
"""

from __future__ import annotations

from procession._python import defer_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeAlias

    from typing_extensions import Self

# without the enums of `signal`, which would cost a forked rank time
_signal: Any = __import__("_signal")

_AT_START: dict[int, Any] = {_signal.SIGINT: _signal.default_int_handler}  # all others: the default
for _name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them from the start
    if hasattr(_signal, _name):
        _AT_START[getattr(_signal, _name)] = _signal.SIG_IGN

_ALWAYS = [
    getattr(_signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
    if hasattr(_signal, name)
]
"""Signals that end a rank, or report on its children: their handlers are reset even if they are in C."""

_ENDINGS = [
    getattr(_signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(_signal, name)
]
"""Signals that ask a rank to end; none blocks them, though its caller may wait for them (sigwait(3))."""

_LOOPS = ("asyncio", "uvloop", "trio", "twisted", "gunicorn")
"""Packages whose handlers wake an event loop, which a rank does not have."""


Actions: TypeAlias = "tuple[list[int], list[int]]"
"""The signals that a process ignores, and those that it blocks."""


def read_actions() -> Actions:
    """Return the signal actions that a program executed by this process would inherit."""
    return _list_ignored(), list(map(int, _signal.pthread_sigmask(_signal.SIG_BLOCK, ())))


def _list_ignored() -> list[int]:
    return [n for n in range(1, _signal.NSIG) if _signal.getsignal(n) == _signal.SIG_IGN]


class Inheritance:
    """Blocks signals while a process forks ranks, and resets handlers in each rank."""

    def __init__(self, *, keep_handlers: bool = False, caller: Actions | None = None) -> None:
        """Decide what ranks inherit: what ``caller`` ignores and blocks, or else what this process does."""
        changes, kept = _list_handled([] if keep_handlers else _ALWAYS)
        self._blocked = {_signal.SIGINT, *changes, *kept}
        self._changes = {number: _AT_START.get(number, _signal.SIG_DFL) for number in changes}
        for number, handler in defer_signals.list_deferred().items():
            self._changes.setdefault(number, handler)
        self._keep_handlers = keep_handlers
        self._before: Any = set()
        self.mask: Any = None if caller is None else set(caller[1])
        """The signals that a rank blocks while it runs."""
        if caller is not None:
            self._ignore(set(caller[0]))

    def _ignore(self, wanted: set[int]) -> None:
        for number in wanted ^ set(_list_ignored()):
            initial = _AT_START.get(number, _signal.SIG_DFL)
            self._changes[number] = _signal.SIG_IGN if number in wanted else initial

    def __enter__(self) -> Self:
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, self._blocked)
        if self.mask is None:
            self.mask = self._before
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)

    def admit_interrupt(self) -> None:
        """Let a pending SIGINT reach the parent's handler."""
        if _signal.SIGINT in _signal.sigpending():
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)
            _signal.pthread_sigmask(_signal.SIG_BLOCK, self._blocked)

    def reset(self) -> None:
        """Reset handlers in a rank; signals stay blocked until ``mask`` is set."""
        if not self._keep_handlers:
            self.mask = set(self.mask) - set(_ENDINGS)
        try:
            _signal.set_wakeup_fd(-1)
            for number, action in self._changes.items():
                _signal.signal(number, action)
        except ValueError:  # a subinterpreter, which cannot set handlers
            pass
        defer_signals.forget_deferred()


def _list_handled(always: list[int]) -> tuple[list[int], list[int]]:
    """Return the signals to reset in each rank, and those whose Python handlers it keeps.

    As after exec, a signal that is ignored stays ignored.  `getsignal` does not report handlers in C.
    """
    from procession._rank.stacks import signal_numbers

    spared = signal_numbers()  # set if this is a rank: each rank that it forks sets its own
    caught = _list_caught() if always else 0
    changes = [number for number in always if caught >> (number - 1) & 1]
    kept: list[int] = []
    deferred = defer_signals.list_deferred()
    for number, handler in enumerate(map(_signal.getsignal, range(1, _signal.NSIG)), 1):
        if callable(handler) and number not in changes and number not in spared:
            (changes if _wakes_loop(deferred.get(number, handler)) else kept).append(number)
    return changes, kept


def _list_caught() -> int:
    """Return the signals with handlers, those in C included, as a mask; all signals if that is unknown."""
    try:
        with open("/proc/self/status", "rb") as file:
            _, _, rest = file.read().partition(b"\nSigCgt:")
        return int(rest[: rest.index(b"\n")], 16)
    except (OSError, ValueError):
        return -1


def _wakes_loop(handler: Any) -> bool:
    module = getattr(getattr(handler, "func", handler), "__module__", None) or ""
    return module == "procession._supervise.forwarding" or module.partition(".")[0] in _LOOPS
