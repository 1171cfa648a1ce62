"""Pickles small values, and gives up on large ones before it has spent memory on them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def dump_small(value: object, limit: int) -> bytes | None:
    """Return the pickle of a value: empty if it exceeds ``limit`` bytes, None if pickling fails."""
    import _pickle

    file = _SmallFile(limit)
    kind: Any = type("SmallPickler", (_pickle.Pickler,), {"persistent_id": file.look_at})
    try:
        kind(file, 5, buffer_callback=file.look_at_buffer).dump(value)
    except BaseException:
        return b"" if file.is_full else None
    return b"".join(file.parts)


class _SmallFile:
    """A file for a pickler that refuses what would make it too large."""

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.is_full = False
        self._left = limit

    def write(self, data: bytes | memoryview) -> int:
        """Take a part of the pickle."""
        self._check(len(data))
        self._left -= len(data)
        self.parts.append(bytes(data))
        return len(data)

    def look_at(self, value: object) -> None:
        """Refuse a value that is too large; return None, so that it is pickled like any other."""
        self._check(_size_of(value))

    def look_at_buffer(self, buffer: Any) -> bool:
        """Refuse a buffer that is too large; return True, so that it stays in the pickle."""
        self._check(buffer.raw().nbytes)
        return True

    def _check(self, size: int) -> None:
        if size > self._left:
            self.is_full = True
            raise ValueError("too large")


def _size_of(value: object) -> int:
    """Return the bytes that a value itself has; 0 if it is not one block of them."""
    if isinstance(value, str):
        return str.__len__(value)
    if isinstance(value, int):
        return int.bit_length(value) // 8
    try:
        with memoryview(value) as view:  # type: ignore[arg-type]  # bytes, arrays and the like
            return view.nbytes
    except Exception:
        return 0


_AGAIN = 0.05  # seconds: code that catches the first TimeoutError gets more


class bounded:  # noqa: N801  # contextlib would be an import for each rank
    """Raises TimeoutError in the block after some seconds: a ``__reduce__`` may wait for ever."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._signal: Any = __import__("_signal")
        self._can = hasattr(self._signal, "setitimer")
        self._before: Any = None

    def __enter__(self) -> None:
        try:
            self._before = self._can and self._signal.signal(self._signal.SIGALRM, _raise_timeout)
        except ValueError:  # a subinterpreter, which cannot set handlers
            self._can = False
        if self._can:
            self._signal.setitimer(self._signal.ITIMER_REAL, self._seconds, _AGAIN)

    def __exit__(self, *_: object) -> None:
        if self._can:
            self._signal.setitimer(self._signal.ITIMER_REAL, 0)
            if self._before is not None:  # else a handler in C, which Python cannot restore
                self._signal.signal(self._signal.SIGALRM, self._before)


def _raise_timeout(*_: object) -> None:
    raise TimeoutError
