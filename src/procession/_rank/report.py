"""Reports how a rank ended: one frame up the channel, whatever state the rank is in.

Composing a report must not fail and must not block.  Each step that user code could break (a `__str__` that
raises, no memory, no descriptors) has a simpler one to fall back on, and the last is a frame made in advance.
Ranks import this module: it imports larger modules only when it needs them.
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
"""Largest pickled exception that a report carries, in bytes."""

_CLOSED = (9, 88)  # EBADF, ENOTSOCK: `errno` would be an import
PICKLE_BOUND = 1.0
"""Seconds that the pickling of an exception may take: it runs code of the exception's class."""

_system = sys.modules[os.name]  # its functions stay original where those of `os` are patched

LINKS = 32
"""Exceptions that a traceback shows at each end of a chain: a report has little room for more."""

_RESERVE = 1 << 18  # bytes freed when a rank fails for lack of memory
_PICKLED_NONE = b"\x80\x04N."
_FOR_RESULT = ("_pickle", "_socket", "procession._linux.memory")


_LAST_WORDS = b"MemoryError", b"", b"MemoryError: no memory was left to report more\n", b""
_EMERGENCY = wire.encode(wire.RAISED, 0, *_LAST_WORDS)

_reserve: bytes | None = None


def reserve_memory() -> None:
    """Reserve memory to free if the rank fails for lack of it; a forked rank has its parent's reserve."""
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
        self._pid = _system.getpid()
        self.is_lost: bool = False  # whether there is no way to the caller any more
        reserve_memory()

    def fileno(self) -> int:
        """Return the channel's descriptor."""
        return self._fd

    def lift(self) -> None:
        """Move the channel's descriptor to a high number, so that user code does not close it by number."""
        self._fd = lift(self._fd)

    def returned(self, value: Any, *, wanted: bool) -> None:
        """Report that fn returned, with its pickled value if results are wanted."""
        now = monotonic_ns()
        if not wanted:
            self._send(wire.encode(wire.RETURNED_NOTHING, now, b"results were not asked for"))
            return
        try:
            data = _PICKLED_NONE if value is None else _pickle(value)
        except BaseException as error:  # an error in a __getstate__ is no failure of fn
            reason = f"it cannot be pickled: {type(error).__name__}: {_text_of(error)}"
            self._send(wire.encode(wire.RETURNED_NOTHING, now, wire.shorten(reason)))
            return
        if len(data) <= wire.TEXT_LIMIT:
            self._send(wire.encode(wire.RETURNED, now, data))
            return
        try:
            self.send_file(wire.encode(wire.RETURNED_FILE, now), data)
        except Exception as error:  # RLIMIT_FSIZE limits memory files, too
            reason = f"it cannot be sent: {type(error).__name__}: {_text_of(error)}"
            self._send(wire.encode(wire.RETURNED_NOTHING, now, wire.shorten(reason)))

    def raised(self, error: BaseException) -> None:
        """Report that fn, or something that led up to it, raised."""
        now = monotonic_ns()
        _release_memory()
        if not self.is_ours():
            write_error(describe(error))
            return
        mask = _block_termination()
        try:
            self._send(self._compose_with_fallbacks(now, error))
        finally:
            _restore(mask)
        if self.is_lost:
            write_error(describe(error))

    def exited(self, exit_: SystemExit) -> int:
        """Report a `sys.exit`; return the exit status for this process.

        A code that the operating system would cut to 0 (256) becomes 1: it was not 0.
        """
        code = exit_.code
        if code is None or (isinstance(code, int) and code == 0):
            self._send(wire.encode(wire.RETURNED_NOTHING, monotonic_ns(), b"it called sys.exit(0)"))
            return 0
        status = (code & 0xFF or 1) if isinstance(code, int) else 1
        cut = isinstance(code, int) and not code & 0xFF  # 256: the system would say 0
        text = str(status) if isinstance(code, int) and not cut else _text_of(code)
        self._send(wire.encode(wire.EXITED, monotonic_ns(), wire.shorten(text)))
        if not isinstance(code, int):
            write_error(text + "\n")
        return status

    def prepare(self, *, wanted: bool) -> None:
        """Import what a large result takes, if results are wanted: fn may leave the rank without files."""
        for name in _FOR_RESULT if wanted else ():
            __import__(name)

    def send_file(self, frame: bytes, data: bytes) -> None:
        """Send a frame together with the descriptor of a file that holds ``data``."""
        import _socket  # without the enums of `socket`

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
        """Return whether this process is the rank: one that the rank forked must not report."""
        return bool(_system.getpid() == self._pid)

    def _send(self, frame: bytes) -> None:
        try:
            while frame and self.is_ours():
                frame = frame[_system.write(self._fd, frame) :]
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            self.is_lost = True
            write_error("this rank cannot report: its code has closed its error channel\n")

    def _compose_with_fallbacks(self, now: int, error: BaseException) -> bytes:
        for write in (describe, describe_plainly):
            try:
                return self._compose(now, error, write)
            except BaseException:  # no memory, or an interrupt: again, in a shorter form
                continue
        return _EMERGENCY

    def _compose(
        self, now: int, error: BaseException, write: Callable[[BaseException], str]
    ) -> bytes:
        text = write(error)
        fields = [
            wire.shorten(_name_of(type(error)), 256),
            wire.shorten(_text_of(error), 2048),
            wire.shorten(text),
            _pickle_exception(error, len(text)),
        ]
        return wire.encode(wire.RAISED, now, *fields)


def describe(error: BaseException) -> str:
    """Return the traceback of an exception as text: in full, or as much as possible."""
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


class _LeftOut(Exception):  # noqa: N818  # it is shown, never raised
    """Stands for the exceptions that are left out of a long chain; a traceback shows it as ``[...]``."""

    __module__ = "builtins"
    __qualname__ = "[...]"


def _cut_chains(error: BaseException, cuts: list[_Cut]) -> None:
    """Leave the middle out of chains that are too long to show; record what to restore.

    Each link costs `traceback` 0.3 ms, and the interpreter's own writer gives up on 1,000 links.
    """
    seen: set[int] = set()
    ahead = [error]
    while ahead:
        chain = _follow(ahead.pop(), seen)
        for one in (*chain[:LINKS], *chain[LINKS:][-LINKS:]):
            grouped: Any = getattr(one, "exceptions", ())
            if isinstance(grouped, tuple):
                ahead += [each for each in grouped if isinstance(each, BaseException)]
        left_out = len(chain) - 2 * LINKS
        if left_out > 1:
            last = chain[LINKS - 1]
            cuts.append((last, last.__cause__, last.__context__, last.__suppress_context__))
            last.__cause__ = _LeftOut(f"{left_out:,} exceptions left out")
            last.__cause__.__cause__ = chain[-LINKS]


def _follow(error: BaseException, seen: set[int]) -> list[BaseException]:
    """Return an exception and those that a traceback shows before it, the last one first."""
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
    """Return a full traceback, in the fastest way that works."""
    if _can_interpreter_write(error):
        text = _write_by_interpreter(error)
        if type(error).__qualname__ in text:
            return text
    try:
        import traceback

        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:  # no memory; or imports no longer work
        text = _write_by_interpreter(error)
        if type(error).__qualname__ not in text:
            raise
        return text


def _can_interpreter_write(error: BaseException) -> bool:
    """Return whether the interpreter writes the same text as `traceback`, ten times as fast.

    (A hundred times, if `traceback` is not imported yet.)  It does so before Python 3.13, which calls
    `traceback` itself, and if all source files exist as files.  No other thread may write to standard error
    meanwhile.
    """
    if sys.version_info >= (3, 13) or "exceptiongroup" in sys.modules:  # it patches `traceback`
        return False
    if sys.getrecursionlimit() < 8 * LINKS:  # the interpreter recurses along a chain
        return False
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return False
    return all(map(os.path.exists, _files_of(error)))


def _files_of(error: BaseException) -> set[str]:
    """Return the names of the files that the traceback of an exception and of its causes shows."""
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
            whole: Any = one
            ahead += whole.exceptions
    return files


def _files_of_traceback(step: TracebackType | None) -> set[str]:
    files = set()
    while step is not None:
        files.add(step.tb_frame.f_code.co_filename)
        step = step.tb_next
    return files


def _write_by_interpreter(error: BaseException) -> str:
    """Return a traceback as the interpreter would write it at its end."""
    import io

    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return sys.stderr.getvalue()
    finally:
        sys.stderr = before


def write_error(text: str) -> None:
    """Write to standard error, if there is one."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
    except BaseException:  # a user's stream may raise anything
        pass


def describe_plainly(error: BaseException) -> str:
    """Return a traceback without source lines or causes, made with built-ins only."""
    lines = ["Traceback (most recent call last):\n"]
    step: TracebackType | None = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {step.tb_lineno}, in {code.co_name}\n')
        step = step.tb_next
    return "".join([*lines, f"{_name_of(type(error))}: {_text_of(error)}\n"])


def _block_termination() -> Any:
    """Block SIGTERM, which would cut a report short: its sender wants the rank to end, and it is about to.

    Returns the signal mask to restore, None if nothing was done.
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
    except BaseException:  # a KeyboardInterrupt in __str__, too
        return f"<{type(value).__name__} object whose str() raises>"


def _pickle(value: Any, *, hurried: bool = False) -> bytes:
    """Pickle a value that leaves the rank: plainly, or by value if that fails.

    With ``hurried``, do not wait for the import of cloudpickle.
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
    """Return the pickle of an exception; empty if it is too large or cannot be pickled."""
    if size > 16 * EXCEPTION_LIMIT:
        return b""
    try:
        from procession._rank.small_pickle import bounded, dump_small

        with bounded(PICKLE_BOUND):
            data = dump_small(error, EXCEPTION_LIMIT)
            if data is None:  # perhaps by value
                data = _pickle(error, hurried=True)
            return data if len(data) <= EXCEPTION_LIMIT else b""
    except BaseException:
        return b""
