"""The hub accepts the agents of its launch, and no other connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from procession.remote import agent, hub
from procession.remote.agent_connection import (
    VERSION,
    AgentConnection,
    note_clock,
    number_locally,
    read_boot_id,
)
from procession.remote.handshake import greet_hub
from procession.remote.hub import Hub, RefusalError
from procession.remote.link import Link, await_end

Open = Callable[..., Hub]


@pytest.fixture
def open_hub() -> Iterator[Open]:
    hubs = []

    def open_one(nprocs: int = 1) -> Hub:
        hubs.append(Hub(nprocs, "127.0.0.1", 0, 10))
        return hubs[-1]

    yield open_one
    for each in hubs:
        each.close()


def describe(of: Hub, **changes: Any) -> Any:
    """Return the description that the hub's agents get."""
    return {
        "hub": of.address,
        "secret": of.secret,
        "rank_variables": [],
        "contact_timeout": 10,
        **changes,
    }


def arrive(at: Hub, **changes: Any) -> threading.Thread:
    """Connect an agent in a thread, which closes its connections once the hub has closed its ends."""

    def connect() -> None:
        try:
            links = agent.connect(describe(at, **changes))[:2]
        except (OSError, EOFError):  # the hub has refused it
            return
        for link in links:
            await_end(link)
            link.close()

    thread = threading.Thread(target=connect)
    thread.start()
    return thread


def gather(of: Hub, seconds: float = 30) -> list[AgentConnection] | None:
    return of.gather(time.monotonic() + seconds, lambda: None)


def finish(of: Hub, connections: list[AgentConnection] | None, *threads: threading.Thread) -> None:
    for connection in connections or ():
        connection.close()
    of.close()
    for thread in threads:
        thread.join()


def connect(to: Hub, data: bytes = b"") -> socket.socket:
    """Connect as a stranger, and send some data."""
    sock = socket.create_connection(to.address)
    sock.sendall(data)
    return sock


def test_agents_arrive_in_any_order_and_are_sorted_by_rank(open_hub: Open) -> None:
    ours = open_hub(3)
    threads = [arrive(ours, rank=rank) for rank in (2, 0, 1)]
    connections = gather(ours)
    assert connections is not None
    assert [(one.rank, one.hello["rank"]) for one in connections] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    assert number_locally(connections) == [(0, 3), (1, 3), (2, 3)]
    finish(ours, connections, *threads)


def test_agents_without_a_rank_get_one(open_hub: Open) -> None:
    ours = open_hub(2)
    threads = [arrive(ours), arrive(ours)]
    connections = gather(ours)
    assert connections is not None
    assert [connection.rank for connection in connections] == [0, 1]
    finish(ours, connections, *threads)


STRANGERS = {
    "nothing": b"",
    "a request": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + b"x" * 4096,
    "zeros": bytes(64),
    "half a proof": bytes(63),
    "much": b"\xff" * (1 << 20),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_agents_arrive_although_strangers_connect(open_hub: Open, name: str) -> None:
    """Some strangers send data and stay, the others close the connection at once."""
    ours = open_hub(2)
    strangers = [socket.create_connection(ours.address) for _ in range(20)]
    for stranger in strangers[:10]:
        stranger.setblocking(False)
        try:
            stranger.send(STRANGERS[name])
        except OSError:
            pass
    for stranger in strangers[10:]:
        stranger.close()
    threads = [arrive(ours, rank=rank) for rank in range(2)]
    connections = gather(ours)
    assert connections is not None
    finish(ours, connections, *threads)
    for stranger in strangers:
        stranger.close()


def test_a_peer_without_the_secret_is_no_agent(open_hub: Open) -> None:
    """The agent fails, too."""
    ours = open_hub()
    errors: list[BaseException] = []

    def connect_wrongly() -> None:
        try:
            agent.connect(describe(ours, secret=b"w" * 32))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=connect_wrongly)
    thread.start()
    assert gather(ours, 0.5) is None
    thread.join()
    assert errors
    assert ours.missing == [0]


def test_a_stranger_that_sends_no_proof_in_time_is_dropped(
    open_hub: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "GREETING_TIME", 0.1)
    ours = open_hub()
    with connect(ours, b"x") as stranger:
        assert gather(ours, 0.5) is None
        assert len(stranger.recv(100)) == 32
        assert stranger.recv(100) == b""


def test_the_oldest_of_too_many_strangers_is_dropped(
    open_hub: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SPARE", 2)
    ours = open_hub(1)
    strangers = [connect(ours) for _ in range(5)]
    assert gather(ours, 0.3) is None
    for stranger in strangers:
        stranger.settimeout(10)
        assert len(stranger.recv(32)) == 32
    assert strangers[0].recv(1) == b""
    threads = [arrive(ours, rank=0)]
    connections = gather(ours)
    assert connections is not None
    finish(ours, connections, *threads)
    for stranger in strangers:
        stranger.close()


def test_two_agents_of_one_rank_are_refused(open_hub: Open) -> None:
    ours = open_hub(2)
    threads = [arrive(ours, rank=0), arrive(ours, rank=0)]
    with pytest.raises(RefusalError, match="say that they are rank 0"):
        gather(ours)
    finish(ours, None, *threads)


def test_a_rank_beyond_nprocs_is_refused(open_hub: Open) -> None:
    ours = open_hub(2)
    thread = arrive(ours, rank=2)
    with pytest.raises(RefusalError, match="says that it is rank 2 of 2"):
        gather(ours)
    finish(ours, None, thread)


def test_another_version_of_python_is_refused(
    open_hub: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One version cannot read every pickle of another."""
    ours = open_hub()
    monkeypatch.setattr(agent, "VERSION", [*VERSION[:2], 99])
    thread = arrive(ours)
    with pytest.raises(RefusalError, match=r"runs Python 3\.99, and this is 3\.\d+"):
        gather(ours)
    finish(ours, None, thread)


def test_an_agent_that_leaves_before_its_hello_does_not_take_its_rank(open_hub: Open) -> None:
    ours = open_hub(1)
    sock = socket.create_connection(ours.address)
    greeting = threading.Thread(target=lambda: gather(ours, 0.5))
    greeting.start()
    greet_hub(sock, ours.secret)
    sock.close()
    greeting.join()
    thread = arrive(ours, rank=0)
    connections = gather(ours)
    assert connections is not None
    finish(ours, connections, thread)


def test_a_check_that_raises_ends_the_wait(open_hub: Open) -> None:
    def fail() -> None:
        raise RuntimeError("the engine has ended")

    with pytest.raises(RuntimeError, match="the engine has ended"):
        open_hub().gather(time.monotonic() + 30, fail)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="'advertise' must be an address of this machine"):
        Hub(1, "192.0.2.1", 0, 10)
    with pytest.raises(ValueError, match=r"options\['advertise'\]: 'no.such.host' cannot be"):
        Hub(1, "no.such.host", 0, 10)


def test_a_port_in_use_is_refused(open_hub: Open) -> None:
    _, port = open_hub().address
    with pytest.raises(
        ValueError, match=f"cannot listen at '127.0.0.1', port {port}: .* a free port"
    ):
        Hub(1, "127.0.0.1", port, 10)


def test_the_offset_of_another_machines_clock_is_noted() -> None:
    here: Any = {"boot": read_boot_id(), "clock": 5}
    note_clock(here)
    assert here["offset"] == 0
    there: Any = {"boot": "another", "clock": time.monotonic_ns() - 7_000_000_000}
    note_clock(there)
    assert 7_000_000_000 <= there["offset"] < 8_000_000_000


def test_agents_with_one_host_name_are_on_one_host() -> None:
    hellos: list[Any] = [{"host": host} for host in ("a", "b", "a", "b", "c")]
    none: Any = None
    connections = [AgentConnection(rank, none, none, hello) for rank, hello in enumerate(hellos)]
    assert number_locally(connections) == [(0, 2), (0, 2), (1, 2), (1, 2), (0, 1)]


def test_a_peer_that_begins_without_a_hello_is_refused(open_hub: Open) -> None:
    ours = open_hub()
    sock = socket.create_connection(ours.address)

    def send_something_else() -> None:
        greet_hub(sock, ours.secret)
        link = Link(sock)
        link.send(b"?")
        await_end(link)
        link.close()

    thread = threading.Thread(target=send_something_else)
    thread.start()
    with pytest.raises(RefusalError, match="began with a frame of kind b'\\?'"):
        gather(ours)
    finish(ours, None, thread)
