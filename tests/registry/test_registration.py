"""A process registers backends of its own, for a while or for good."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest

from procession import (
    Availability,
    Capabilities,
    InvalidBackendError,
    Launch,
    Started,
    UnknownBackendError,
    get_backend,
    list_backends,
    register_backend,
)


class Nothing:
    """A backend that starts nothing."""

    name = "nothing"
    protocol_version = 1
    capabilities = Capabilities(remote=True)

    def availability(self) -> Availability:
        return Availability(True)

    def start(self, launch: Launch) -> Started:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide installed plugins, and check that each test undoes its registrations."""
    monkeypatch.setenv("PROCESSION_PLUGINS", "none")
    yield
    assert {info.origin for info in list_backends()} == {"built-in"}


def test_a_registered_backend_is_found_until_it_is_undone() -> None:
    backend = Nothing()
    registration = register_backend("mine", backend)
    assert get_backend("mine") is backend
    registration.undo()
    registration.undo()
    with pytest.raises(UnknownBackendError):
        get_backend("mine")


def test_a_registration_is_a_context_manager() -> None:
    with register_backend("mine", Nothing()) as registration:
        assert registration.name == "mine"
        assert get_backend("mine")
    with pytest.raises(UnknownBackendError):
        get_backend("mine")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_registrations_of_one_name_can_be_undone_in_any_order(order: tuple[int, ...]) -> None:
    backends = [Nothing() for _ in range(3)]
    registrations = [register_backend("mine", each, replace=True) for each in backends]
    left = [0, 1, 2]
    for index in order:
        assert get_backend("mine") is backends[left[-1]]
        registrations[index].undo()
        left.remove(index)
    with pytest.raises(UnknownBackendError):
        get_backend("mine")


def test_a_factory_is_called_once_at_the_first_use() -> None:
    made: list[Nothing] = []

    def make() -> Nothing:
        made.append(Nothing())
        return made[-1]

    with register_backend("mine", make):
        assert next(info.status for info in list_backends()) == "not loaded"
        assert not made
        assert get_backend("mine") is get_backend("mine")
        assert len(made) == 1


def test_a_class_is_a_factory() -> None:
    with register_backend("mine", Nothing):
        assert isinstance(get_backend("mine"), Nothing)


@pytest.mark.parametrize("name", ["mine", "fork", "mpi"])
def test_a_name_in_use_needs_replace(name: str) -> None:
    with register_backend("mine", Nothing()):
        with pytest.raises(ValueError, match="replace=True"):
            register_backend(name, Nothing())
        backend = Nothing()
        with register_backend(name, backend, replace=True):
            assert get_backend(name) is backend


def test_a_built_in_can_be_replaced_for_a_while() -> None:
    with register_backend("fork", Nothing(), replace=True):
        mine, fork = (info for info in list_backends() if info.name == "fork")
        assert (mine.origin, mine.status) == ("runtime", "ok")
        assert mine.target == f"{__name__}:Nothing"
        assert mine.capabilities == Capabilities(remote=True)
        assert (fork.origin, fork.status) == ("built-in", "shadowed")
        assert fork.hint == "use 'procession:fork'"
        assert get_backend("procession:fork") is not get_backend("fork")
    assert get_backend("fork").name == "fork"


def test_an_object_that_is_no_backend_is_refused_at_once() -> None:
    backend = Nothing()
    backend.capabilities = None  # type: ignore[assignment]
    with pytest.raises(InvalidBackendError, match="capabilities must be"):
        register_backend("mine", backend)
    with pytest.raises(InvalidBackendError):
        register_backend("mine", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a:b", " a", "a\n"])
def test_a_name_must_be_a_word(name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        register_backend(name, Nothing())


def test_a_name_must_be_a_str() -> None:
    with pytest.raises(TypeError, match="name must be a str"):
        register_backend(3, Nothing())  # type: ignore[arg-type]


def test_the_registry_keeps_no_reference_to_an_undone_backend() -> None:
    backend = Nothing()
    reference = weakref.ref(backend)
    registration = register_backend("mine", backend)
    registered = weakref.ref(registration)
    registration.undo()
    del backend, registration
    gc.collect()
    assert (reference(), registered()) == (None, None)


def test_the_error_of_an_unknown_name_suggests_a_registered_one() -> None:
    with (
        register_backend("my-engine", Nothing()),
        pytest.raises(UnknownBackendError, match="did you mean 'my-engine'"),
    ):
        get_backend("my-engin")


class Slow(str):
    """A name whose look-up another thread holds up."""

    __slots__ = ("begun", "end")

    begun: threading.Event
    end: threading.Event

    def __hash__(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            self.begun.set()
            self.end.wait(20)
        return str.__hash__(self)


def test_a_fork_made_while_another_thread_registers_a_backend_can_register_one() -> None:
    name = Slow("mine")
    name.begun, name.end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: register_backend(name, Nothing()).undo())
    thread.start()
    assert name.begun.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's handler is inherited
        signal.alarm(10)
        register_backend("other", Nothing())
        os._exit(0)
    name.end.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
