"""What the core looks for on a backend's processes, and what is lost without it."""

from __future__ import annotations

import inspect
import signal
import time
from typing import Any

import pytest

import procession
import ranks
from procession import Launch, ProcessContext, protocol, start_processes
from through import Wrapping

PROTOCOLS = [kind for name, kind in vars(protocol).items() if name.startswith("Supports")]

LACKED = [kind for kind in PROTOCOLS if kind is not protocol.SupportsRelease]
"""All but `SupportsRelease`: without `release` a process of a built-in backend would leak its descriptors."""


def attributes_of(kind: type) -> set[str]:
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
    return methods | set(kind.__annotations__)


class Without:
    """A process that lacks what one of the Protocols describes."""

    def __init__(self, inner: Any, missing: set[str]) -> None:
        self.inner, self.missing = inner, missing

    def __getattr__(self, name: str) -> Any:
        if name in self.missing:
            raise AttributeError(name)
        return getattr(self.inner, name)


def start(fn: Any, kind: type, *args: Any) -> ProcessContext:
    missing = attributes_of(kind)
    context: ProcessContext = start_processes(
        fn,
        args,
        2,
        join=False,
        start_method=Wrapping("spawn", wrap=lambda one: Without(one, missing)),
        collect_results=True,
    )
    return context


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_each_is_public_and_described(kind: type) -> None:
    assert kind.__name__ in procession.__all__
    assert "ithout " in (kind.__doc__ or "") + "".join(
        inspect.getdoc(value) or "" for value in vars(kind).values() if callable(value)
    )


@pytest.mark.parametrize("kind", LACKED)
def test_a_launch_does_without_each(kind: type) -> None:
    context = start(ranks.give, kind)
    assert context.wait()
    assert context.results() == [(0,), (1,)]


@pytest.mark.parametrize("kind", LACKED)
def test_ranks_are_stopped_without_each(kind: type) -> None:
    with start(ranks.work, kind) as context:
        context.terminate()
        assert context.wait()


def test_without_signals_an_interrupt_is_a_termination() -> None:
    context = start(ranks.work, protocol.SupportsSignal)
    context.interrupt()
    assert context.wait()
    assert {process.exitcode for process in context.processes} == {-signal.SIGTERM}


def test_without_stacks_there_are_none() -> None:
    with start(ranks.work, protocol.SupportsStacks) as context:
        assert all("File" not in text for text in context.dump_stacks().values())


def test_with_stacks_there_are_some() -> None:
    with start(ranks.work, protocol.SupportsHost) as context:
        until = time.monotonic() + 30
        while not any("File" in text for text in context.dump_stacks().values()):
            assert time.monotonic() < until


@pytest.mark.parametrize("made", [Launch(abs, (), 1, "fork"), protocol.Capabilities()])
def test_a_copy_has_some_fields_changed(made: Any) -> None:
    name = "nprocs" if isinstance(made, Launch) else "remote"
    changed = made.replace(**{name: 7})
    assert type(changed) is type(made)
    assert getattr(changed, name) == 7
    assert made != changed
    with pytest.raises((TypeError, ValueError)):
        made.replace(nonsense=1)
