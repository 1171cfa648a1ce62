"""Waiters report which of several descriptors are readable."""

from __future__ import annotations

import os
import threading

import pytest

from procession._supervise.waiter import HandleWaiter, SelectorWaiter


@pytest.mark.parametrize("kind", [SelectorWaiter, HandleWaiter])
def test_waiters_return_what_is_ready(kind: type[SelectorWaiter | HandleWaiter]) -> None:
    waiter = kind()
    pipes = [os.pipe() for _ in range(3)]
    for rank, (read, _) in enumerate(pipes):
        waiter.add(read, ("channel", rank))
    assert waiter.wait(0) == []
    os.write(pipes[2][1], b"x")
    assert waiter.wait(None) == [("channel", 2)]
    waiter.discard(("channel", 2))
    waiter.discard(("channel", 2))
    assert waiter.wait(0) == []
    threading.Timer(0.05, waiter.wake).start()
    assert waiter.wait(30) == []
    waiter.close()
    waiter.wake()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_one_descriptor_may_have_two_keys() -> None:
    """A remote rank's sentinel and channel can be one socket."""
    waiter = SelectorWaiter()
    read, write = os.pipe()
    waiter.add(read, ("sentinel", 0))
    waiter.add(read, ("channel", 0))
    os.write(write, b"x")
    assert sorted(waiter.wait(None)) == [("channel", 0), ("sentinel", 0)]
    waiter.discard(("channel", 0))
    assert waiter.wait(None) == [("sentinel", 0)]
    waiter.close()
    os.close(read)
    os.close(write)
