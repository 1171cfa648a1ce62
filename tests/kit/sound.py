"""A backend that is not wrong, and what makes others of it that are wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from procession import Availability, Launch, Started
from procession.backends.fork import ForkBackend

kept: list[Any] = []
MANY = 12
"""The ranks of a launch that only one test has, `test_one_rank_and_many`."""


class Sound(ForkBackend):
    """Not wrong at all: what the others would be without their one fault."""

    name = "sound"
    capabilities = ForkBackend().capabilities
    fails: ClassVar[set[str]] = set()

    def availability(self) -> Availability:
        return ForkBackend().availability()


class Far(Sound):
    """May have ranks elsewhere, it says."""

    capabilities = Sound.capabilities.replace(remote=True)


class Around:
    """Stands around a process or a channel, and changes one thing about it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class Call:
    """Stands around fn."""

    fn: Callable[..., Any]
    nprocs: int

    def __call__(self, rank: int, *args: Any) -> Any:
        return self.fn(rank, *args)


class WrongProcess(Sound):
    """Starts sound ranks, and gives back other processes."""

    wrap: Callable[[Any], Any] = Around

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        return started.replace(processes=[type(self).wrap(one) for one in started.processes])


class WrongCall(Sound):
    """Starts ranks that call fn in another way."""

    wrap: type[Call] = Call

    def start(self, launch: Launch) -> Started:
        return super().start(launch.replace(fn=self.wrap(launch.fn, launch.nprocs)))


def swallow(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function, whatever it raises."""
    try:
        return call(*args)
    except BaseException:
        return None


def faults(*names: str) -> set[str]:
    return {f"test_rank_fault[{name}]" for name in names}
