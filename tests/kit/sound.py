"""A backend without faults, and the wrappers that make backends with one fault from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from procession import Availability, Launch, Started
from procession.backends.fork import ForkBackend

kept: list[Any] = []
MANY = 12
"""The number of ranks in `test_one_rank_and_many`; no other test has so many."""


class Sound(ForkBackend):
    """A backend without faults: each of the others has one more."""

    name = "sound"
    capabilities = ForkBackend().capabilities
    fails: ClassVar[set[str]] = set()

    def availability(self) -> Availability:
        return ForkBackend().availability()


class Far(Sound):
    """Claims that its ranks may be on other machines."""

    capabilities = Sound.capabilities.replace(remote=True)


class Around:
    """Wraps a process or a channel; subclasses change one thing."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class Call:
    """Wraps fn."""

    fn: Callable[..., Any]
    nprocs: int

    def __call__(self, rank: int, *args: Any) -> Any:
        return self.fn(rank, *args)


class WrongProcess(Sound):
    """Starts ranks without faults, and returns wrapped processes."""

    wrap: Callable[[Any], Any] = Around

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        return started.replace(processes=[type(self).wrap(one) for one in started.processes])


class WrongCall(Sound):
    """Starts ranks that call a wrapped fn."""

    wrap: type[Call] = Call

    def start(self, launch: Launch) -> Started:
        return super().start(launch.replace(fn=self.wrap(launch.fn, launch.nprocs)))


def swallow(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function; return None if it raises anything."""
    try:
        return call(*args)
    except BaseException:
        return None


def faults(*names: str) -> set[str]:
    return {f"test_rank_fault[{name}]" for name in names}
