"""How a rank tells its end: one frame up the channel, whatever state the rank is in.

Composing a report must not fail and must not block: each step that user code could break (a `__str__`
that raises, no memory, no descriptors) has a plainer one behind it, and the last is a frame that was
made at the start.  Ranks import this module: what it needs beyond built-ins it imports when it is
needed.
"""

from __future__ import annotations

import os
import sys
from time import monotonic_ns

from procession._python.fd_numbers import lift
from procession._rank import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeAlias

    _Cut: TypeAlias = tuple[BaseException, BaseException | None, BaseException | None, bool]

EXCEPTION_LIMIT = 12 * 1024
"""Largest pickled exception object that travels, in bytes."""

_system = sys.modules[os.name]  # whose functions stay, whatever replaces those of `os`

LINKS = 32
"""Exceptions at each end of a chain that a traceback shows: a report has hardly room for more."""

_RESERVE = 1 << 18  # given back to the allocator when a rank fails for want of memory
_PICKLED_NONE = b"\x80\x04N."
_FOR_RESULT = ("_pickle", "_socket", "procession._linux.memory")


_EMERGENCY = wire.encode(
    wire.RAISED,
    0,
    b"MemoryError",
    b"",
    b"MemoryError: no memory was left to tell more\n",
    b"",
)

_reserve: bytes | None = None


def reserve_memory() -> None:
    """Have memory that a rank gives back if it fails for want of it; a forked rank has its parent's."""
    global _reserve
    if _reserve is None:
        _reserve = bytes(_RESERVE)


def _release_memory() -> None:
    global _reserve
    _reserve = None


class Reporter:
    """The rank's end of its error channel; sends at most one report."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        reserve_memory()

    def fileno(self) -> int:
        """Return the channel's descriptor."""
        return self._fd

    def lift(self) -> None:
        """Move the channel's descriptor to where user code does not close it by its number."""
        self._fd = lift(self._fd)

    def returned(self, value: Any, *, wanted: bool) -> None:
        """Report that fn returned, with its pickled value where results are wanted."""
        now = monotonic_ns()
        if not wanted:
            self._send(wire.encode(wire.RETURNED_NOTHING, now, b"results were not asked for"))
            return
        try:
            data = _PICKLED_NONE if value is None else _pickle(value)
        except BaseException as error:  # what a __getstate__ raises says nothing of fn
            reason = f"it cannot be pickled: {type(error).__name__}: {_text_of(error)}"
            self._send(wire.encode(wire.RETURNED_NOTHING, now, wire.shorten(reason)))
            return
        if len(data) <= wire.TEXT_LIMIT:
            self._send(wire.encode(wire.RETURNED, now, data))
            return
        try:
            self.send_file(wire.encode(wire.RETURNED_FILE, now), data)
        except Exception as error:  # RLIMIT_FSIZE counts for files in memory too
            reason = f"it cannot be handed over: {type(error).__name__}: {_text_of(error)}"
            self._send(wire.encode(wire.RETURNED_NOTHING, now, wire.shorten(reason)))

    def raised(self, error: BaseException) -> None:
        """Report that fn, or what led up to it, raised."""
        now = monotonic_ns()
        _release_memory()
        if not self.is_ours():
            write_error(describe(error))
            return
        mask = _block_termination()
        try:
            self._send(self._compose_somehow(now, error))
        finally:
            _restore(mask)

    def exited(self, exit_: SystemExit) -> int:
        """Report a `sys.exit`; return the exit status that the process should have.

        A code that the operating system would cut to 0 (256) becomes 1: it was not 0.
        """
        code = exit_.code
        if code is None or (isinstance(code, int) and code == 0):
            self._send(wire.encode(wire.RETURNED_NOTHING, monotonic_ns(), b"it called sys.exit(0)"))
            return 0
        text = _text_of(code)
        self._send(wire.encode(wire.EXITED, monotonic_ns(), wire.shorten(text)))
        if not isinstance(code, int):
            write_error(text + "\n")
            return 1
        return code & 0xFF or 1

    def prepare(self, *, wanted: bool) -> None:
        """Import what a large result takes, if one is wanted: after fn the rank may see no more files."""
        for name in _FOR_RESULT if wanted else ():
            __import__(name)

    def send_file(self, frame: bytes, data: bytes) -> None:
        """Send a frame and, along with it, the descriptor of a file that holds ``data``."""
        import _socket  # what `socket` is made of, without the enums

        from procession._linux import memory

        if not self.is_ours():
            return
        fd = memory.file_of("procession-result", data)
        try:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, os.dup(self._fd))
            rights = _socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder)
            try:
                sock.sendmsg([frame], [rights])
            finally:
                sock.close()
        finally:
            os.close(fd)

    def is_ours(self) -> bool:
        """Whether this process is the rank, not one that the rank forked: that has no say."""
        return os.getpid() == self._pid

    def _send(self, frame: bytes) -> None:
        while frame and self.is_ours():
            frame = frame[_system.write(self._fd, frame) :]

    def _compose_somehow(self, now: int, error: BaseException) -> bytes:
        for tell in (describe, describe_plainly):
            try:
                return self._compose(now, error, tell)
            except BaseException:  # no memory, or an interrupt: once more, in fewer words
                continue
        return _EMERGENCY

    def _compose(
        self, now: int, error: BaseException, tell: Callable[[BaseException], str]
    ) -> bytes:
        text = tell(error)
        fields = [
            wire.shorten(_name_of(type(error)), 256),
            wire.shorten(_text_of(error), 2048),
            wire.shorten(text),
            _pickle_exception(error, len(text)),
        ]
        return wire.encode(wire.RAISED, now, *fields)


def describe(error: BaseException) -> str:
    """Return the traceback of an exception as text: in full, or as much as can be had."""
    cuts: list[_Cut] = []
    try:
        _cut_chains(error, cuts)
        return _write(error)
    except BaseException:
        return describe_plainly(error)
    finally:
        for one, cause, context, suppressed in cuts:
            one.__cause__, one.__context__ = cause, context
            one.__suppress_context__ = suppressed


class _LeftOut(Exception):  # noqa: N818  # it stands in a traceback for others
    """The exceptions that are left out of a long chain; a traceback shows it as ``[...]``."""

    __module__ = "builtins"
    __qualname__ = "[...]"


def _cut_chains(error: BaseException, cuts: list[_Cut]) -> None:
    """Leave the middle out of chains that are too long to be shown; note what to put back.

    Each link costs `traceback` 0.3 ms, and the interpreter's own writer gives up on 1,000 of them.
    """
    seen: set[int] = set()
    ahead = [error]
    while ahead:
        chain = _follow(ahead.pop(), seen)
        for one in (*chain[:LINKS], *chain[LINKS:][-LINKS:]):
            rank_states: Any = getattr(one, "exceptions", ())
            if isinstance(rank_states, tuple):
                ahead += [each for each in rank_states if isinstance(each, BaseException)]
        left_out = len(chain) - 2 * LINKS
        if left_out > 1:
            last = chain[LINKS - 1]
            cuts.append((last, last.__cause__, last.__context__, last.__suppress_context__))
            last.__cause__ = _LeftOut(f"{left_out:,} exceptions left out")
            last.__cause__.__cause__ = chain[-LINKS]


def _follow(error: BaseException, seen: set[int]) -> list[BaseException]:
    """Return an exception and those that a traceback shows ahead of it, the last first."""
    chain = []
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        chain.append(one)
        before = one.__cause__
        if before is None and not one.__suppress_context__:
            before = one.__context__
        one = before
    return chain


def _write(error: BaseException) -> str:
    """Return a traceback in full, by the quickest way that works."""
    if _is_told_as_well_without_traceback(error):
        text = _write_by_interpreter(error)
        if type(error).__qualname__ in text:
            return text
    try:
        import traceback

        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:  # no memory; or nothing can be imported any more
        text = _write_by_interpreter(error)
        if type(error).__qualname__ not in text:
            raise
        return text


def _is_told_as_well_without_traceback(error: BaseException) -> bool:
    """Whether the interpreter writes the same text as `traceback`, and ten times as fast.

    (A hundred times, where `traceback` is not imported yet.)  That is so until Python 3.13, where it calls
    `traceback` itself; as long as all source files can be read as such; and nothing else may be written
    to standard error meanwhile.
    """
    if sys.version_info >= (3, 13) or "exceptiongroup" in sys.modules:  # which changes `traceback`
        return False
    if sys.getrecursionlimit() < 8 * LINKS:  # it recurses along a chain
        return False
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return False
    return all(map(os.path.exists, _files_of(error)))


def _files_of(error: BaseException) -> set[str]:
    """Return the names of the files that the traceback of an exception shows, and of what led to it."""
    files: set[str] = set()
    seen: set[int] = set()
    ahead: list[Any] = [error]
    group: Any = getattr(sys.modules["builtins"], "BaseExceptionGroup", ())  # from Python 3.11 on
    while ahead:
        one = ahead.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        files |= _files_of_traceback(one.__traceback__)
        ahead += (one.__cause__, one.__context__)
        if isinstance(one, group):
            rank_states: Any = one
            ahead += rank_states.exceptions
    return files


def _files_of_traceback(step: TracebackType | None) -> set[str]:
    files = set()
    while step is not None:
        files.add(step.tb_frame.f_code.co_filename)
        step = step.tb_next
    return files


def _write_by_interpreter(error: BaseException) -> str:
    """Have the interpreter write a traceback, as it would at its end."""
    import io

    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return sys.stderr.getvalue()
    finally:
        sys.stderr = before


def write_error(text: str) -> None:
    """Write to standard error if there is one."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
    except BaseException:  # whatever a stream of the user's raises
        pass


def describe_plainly(error: BaseException) -> str:
    """Return a traceback without source lines or causes, made of built-ins alone."""
    lines = ["Traceback (most recent call last):\n"]
    step: TracebackType | None = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {step.tb_lineno}, in {code.co_name}\n')
        step = step.tb_next
    return "".join([*lines, f"{_name_of(type(error))}: {_text_of(error)}\n"])


def _block_termination() -> Any:
    """Let no SIGTERM cut a report short: who sends one wants the rank's end, which is near.

    Returns the signal mask to restore, None where nothing was done.
    """
    try:
        module = __import__("_signal")  # without the enums of `signal`
        return module.pthread_sigmask(module.SIG_BLOCK, (module.SIGTERM,))
    except BaseException:  # Windows; no memory
        return None


def _restore(mask: Any) -> None:
    if mask is not None:
        module = __import__("_signal")
        module.pthread_sigmask(module.SIG_SETMASK, mask)


def _name_of(kind: type) -> str:
    name = str(kind.__qualname__)
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _text_of(value: object) -> str:
    try:
        return str(value)
    except BaseException:  # a KeyboardInterrupt out of __str__ too
        return f"<{type(value).__name__} object whose str() raises>"


def _pickle(value: Any, *, hurried: bool = False) -> bytes:
    """Pickle a value that leaves the rank: plainly, or by value where that fails.

    One that is ``hurried`` does not wait for the import of cloudpickle.
    """
    from _pickle import dumps

    try:
        return dumps(value, 5)
    except Exception:
        if hurried and "cloudpickle" not in sys.modules and type(value).__module__ != "__main__":
            raise
        from procession._rank import by_value

        return by_value.dumps(value, hurried=hurried)


def _pickle_exception(error: BaseException, size: int) -> bytes:
    """Pickle an exception, unless it is too large or cannot be pickled: then return nothing."""
    if size > 16 * EXCEPTION_LIMIT:
        return b""
    try:
        from procession._rank.small_pickle import dump_small

        data = dump_small(error, EXCEPTION_LIMIT)
        if data is None:  # it may go by value
            data = _pickle(error, hurried=True)
        return data if len(data) <= EXCEPTION_LIMIT else b""
    except BaseException:
        return b""
