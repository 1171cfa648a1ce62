"""Rebuilds, in a rank, what travels beside the pickle of a call; the pickle names what is defined here."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable
    from typing import Any

inherited: list[int] = []
"""Descriptors that came with the payload, by index."""

_taken: set[int] = set()


class InheritedFd:
    """Stands in a pickle for a descriptor that travels beside it."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """Return the descriptor; later calls return duplicates, because each owner closes its own."""
        fd = inherited[self.index]
        if fd in _taken:
            return os.dup(fd)
        _taken.add(fd)
        return fd


class CallPerRank:
    """What each rank calls if arguments differ between ranks."""

    def __init__(self, func: Callable[..., Any], args: list[tuple[Any, ...]]) -> None:
        self.func: Callable[..., Any] = func
        self.args: list[tuple[Any, ...]] = args

    def __call__(self, rank: int) -> Any:
        """Call the function with the arguments of one rank."""
        return self.func(rank, *self.args[rank])


def make_code(make: Callable[..., Any], arguments: tuple[Any, ...], filename: str) -> Any:
    """Rebuild code that was pickled by value, and restore the name of its file."""
    return make(*arguments).replace(co_filename=filename)


def make_array(typecode: str, content: Any) -> array[Any]:
    """Rebuild an array from its content, which travels outside the pickle."""
    from array import array

    made = array(typecode)
    made.frombytes(content)
    return made


def make_view(content: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    """Rebuild a memoryview from its content, which travels outside the pickle."""
    flat: Any = memoryview(content)
    view: memoryview = flat.cast(form) if 0 in shape else flat.cast(form, shape)
    return view
